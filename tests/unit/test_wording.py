"""What drivers say, as it is shown: names stay, values of rows go, whatever stands in them. The server's own words are in tests/faults."""

from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, StatementError

from fininfra_db.dialects.wording import first_line, in_words


class PostgresqlError(Exception):
    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class MysqlError(Exception):
    """PyMySQL and asyncmy show an error as a pair."""


def shown(error: Exception) -> str:
    return first_line(DBAPIError("INSERT INTO t VALUES (1)", {}, error))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PostgresqlError("23505", 'duplicate key value violates unique constraint "uq"\nDETAIL:  Key (email)=(V)'), '"uq"'),
        (PostgresqlError("22P02", 'invalid input syntax for type integer: "V"'), "type integer: ***"),
        (PostgresqlError("22P02", 'invalid input syntax for type integer: "a"V\nV"'), "type integer: ***"),
        (PostgresqlError("22003", 'value "V" is out of range for type integer'), "value *** is out of range for type integer"),
        (PostgresqlError("22P02", "ungültige Eingabesyntax für Typ integer: »V«"), "Typ integer: ***"),
        (
            PostgresqlError("22000", "invalid input for query argument $2: 'V (V' (invalid UUID 'V': too short)"),
            "argument $2: *** (invalid UUID",
        ),
        (MysqlError(1062, "Duplicate entry 'V' for key 'uq'"), "Duplicate entry *** for key 'uq'"),
        (MysqlError(1062, "Duplicate entry 'V' for key V\"' for key 'uq'"), "Duplicate entry *** for key \\'uq"),
        (MysqlError(1366, "Incorrect integer value: 'V' for column `d`.`t`.`c` at row 1"), "value: *** for column `d`.`t`.`c` at row 1"),
        (MysqlError(1292, "Truncated incorrect DOUBLE value: 'V'"), "DOUBLE value: ***"),
        (MysqlError(1062, "Doppelter Eintrag 'V' für Schlüssel 'uq'"), "Doppelter Eintrag ***"),
        (MysqlError(1452, "Cannot add or update a child row: (`d`.`t`, CONSTRAINT `fk` FOREIGN KEY (`c`))"), "`fk`"),
        (
            Exception("Cannot insert duplicate key in object 'dbo.t'. The duplicate key value is (V, V). (2627)"),
            "'dbo.t'. The duplicate key value is ***.",
        ),
        (Exception("Conversion failed when converting the varchar value 'V' to data type int. (245)"), "value *** to data type int"),
        (Exception("truncated in table 'd.t', column 'c'. Truncated value: 'V'."), "column 'c'. Truncated value: ***."),
        (Exception("UNIQUE constraint failed: users.email"), "users.email"),
    ],
)
def test_names_stay_and_values_go(error: Any, says: str) -> None:
    text = shown(error)
    assert says in text
    assert "V" not in text.replace("VALUES", "")


def test_any_error_is_one_line_of_its_class_and_its_words() -> None:
    assert in_words(ValueError("one\ntwo")) == "ValueError: one"
    assert in_words(ValueError()) == "ValueError: ValueError"
    error = StatementError("(builtins.ValueError) refused", "INSERT INTO t VALUES (?)", {"email": "V"}, ValueError("refused"))
    assert in_words(error) == "StatementError: (builtins.ValueError) refused"
