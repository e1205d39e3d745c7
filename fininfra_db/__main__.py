"""``python -m fininfra_db`` is ``fininfra-db``."""

from fininfra_db.cli.app import main

main()
