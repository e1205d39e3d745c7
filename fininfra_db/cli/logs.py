"""What is logged and what ``--debug`` prints, through the one redactor."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from fininfra_db.errors import ConfigurationError

Redactor = Callable[[str], str]


class _Redacting:
    """Makes log records without secrets, so that the handlers of a foreign ``env.py`` get nothing else."""

    def __init__(self, make: Callable[..., logging.LogRecord], redact: Redactor) -> None:
        self.make, self.redact = make, redact

    def __call__(self, *args: Any, **options: Any) -> logging.LogRecord:
        record = self.make(*args, **options)
        try:
            text = record.getMessage()
        except Exception:  # the record of somebody else may hold anything, and its own trouble must not show its arguments
            text = str(record.msg)
        record.msg, record.args = self.redact(text), ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = self.redact("".join(traceback.format_exception(record.exc_info[1]))).rstrip()
        return record


def configure(redact: Redactor, *, verbose: bool) -> None:
    """Send what libraries log and warn of to stderr; with ``verbose`` what Alembic says about its plans too.

    A library would leave this to its caller, a program decides.
    """
    make = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_Redacting(make.make if isinstance(make, _Redacting) else make, redact))
    logging.captureWarnings(True)
    if verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("alembic").setLevel(logging.INFO)
        logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def print_traceback(error: BaseException, redact: Redactor) -> None:
    """The whole chain of an error, the first cause first: what a driver said, too, of which the message tells only a part."""
    for each in reversed(list(_chain(error))):
        print(redact("".join(traceback.format_exception(each, chain=False))), file=sys.stderr)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        hidden = isinstance(cause, ConfigurationError)  # what a parser says of a file or URL shows it, secrets that nobody knows included
        cause = cause.__cause__ or (None if hidden and cause.__suppress_context__ else cause.__context__)
