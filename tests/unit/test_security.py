"""Sealing and opening: which key does what, what is refused, and that no error shows a key or a plaintext."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from fininfra_db.errors import DecryptionFailed, FininfraDbError, KeyInvalid, KeyMissing, ValueRefused
from fininfra_db.security import Keyring, decrypt_field, default_keyring, encrypt_field, generate_key, keyring_of, looks_sealed
from fininfra_db.settings import load_settings
from tests.conftest import PRODUCT_VARIABLES

OLD, NEW, OTHER = generate_key(), generate_key(), generate_key()
PLAIN = "access-sandbox-8ab976e6"
MALFORMED_KEYS = {
    "no key": "secret",
    "cut off": OLD[:-2],
    "without a comma": f"{NEW}{OLD}",
    "with a space for a comma": f"{NEW} {OLD}",
    "not ASCII": "ключ" * 11,
    "one of two": f"{OLD},secret",
    "padding": "=" * 44,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a process that has no keys."""
    for name in PRODUCT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(error: FininfraDbError) -> str:
    """Everything that could be printed of an error, with what it was raised from."""
    return f"{error!r} {error.message} {error.hint} {error.__cause__!r}"


# The keyring.


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_what_was_sealed_opens_to_the_same_text(plain: str) -> None:
    keyring = Keyring(NEW)
    assert keyring.decrypt(keyring.encrypt(plain)) == plain


def test_sealed_text_is_ascii_and_holds_nothing_of_the_plaintext() -> None:
    sealed = Keyring(NEW).encrypt(PLAIN)
    assert sealed.isascii()
    assert PLAIN not in sealed


def test_the_same_text_is_sealed_differently_each_time() -> None:
    assert len({Keyring(NEW).encrypt(PLAIN) for _ in range(10)}) == 10


def test_the_first_key_seals() -> None:
    sealed = Keyring(f"{NEW},{OLD}").encrypt(PLAIN)
    assert Keyring(NEW).decrypt(sealed) == PLAIN
    with pytest.raises(DecryptionFailed):
        Keyring(OLD).decrypt(sealed)


@pytest.mark.parametrize("sealing", [NEW, OLD, OTHER], ids=["first", "second", "third"])
def test_every_key_opens(sealing: str) -> None:
    assert Keyring(f"{NEW},{OLD},{OTHER}").decrypt(Keyring(sealing).encrypt(PLAIN)) == PLAIN


def test_a_key_is_replaced_by_putting_the_new_one_in_front() -> None:
    before = Keyring(OLD).encrypt(PLAIN)
    both = Keyring(f"{NEW},{OLD}")
    after = both.encrypt(both.decrypt(before))
    assert Keyring(NEW).decrypt(after) == PLAIN


@pytest.mark.parametrize("pattern", ["{} , {}", " {},\n{}\n", ",{},,{},"])
def test_space_and_empty_parts_around_keys_do_not_matter(pattern: str) -> None:
    keyring = Keyring(pattern.format(NEW, OLD))
    assert repr(keyring) == "<Keyring of 2 keys>"
    assert Keyring(NEW).decrypt(keyring.encrypt(PLAIN)) == PLAIN


def test_what_fernet_sealed_elsewhere_opens_here_and_the_other_way_round() -> None:
    assert Keyring(NEW).decrypt(Fernet(NEW).encrypt(PLAIN.encode()).decode()) == PLAIN
    assert Fernet(NEW).decrypt(Keyring(NEW).encrypt(PLAIN)).decode() == PLAIN


@pytest.mark.parametrize("text", [None, "", " ", ",", " , "])
def test_without_a_key_nothing_is_sealed_or_opened(text: str | None) -> None:
    keyring = Keyring(text)
    assert not keyring
    with pytest.raises(KeyMissing, match="No encryption key") as caught:
        keyring.encrypt(PLAIN)
    assert "FININFRA_DB_KEYS" in (caught.value.hint or "")
    assert PLAIN not in shown(caught.value)
    with pytest.raises(KeyMissing):
        keyring.decrypt(Keyring(NEW).encrypt(PLAIN))


@pytest.mark.parametrize("work", [Keyring.encrypt, Keyring.decrypt])
@pytest.mark.parametrize("kind", MALFORMED_KEYS)
def test_a_malformed_key_is_refused_and_not_shown(kind: str, work: Callable[[Keyring, str], str]) -> None:
    text = MALFORMED_KEYS[kind]
    with pytest.raises(KeyInvalid, match="FININFRA_DB_KEYS") as caught:
        work(Keyring(text), PLAIN)
    assert not [secret for secret in (text, OLD, NEW, PLAIN) if secret in shown(caught.value)]


def test_a_wrong_key_opens_nothing() -> None:
    sealed = Keyring(OTHER).encrypt(PLAIN)
    with pytest.raises(DecryptionFailed) as caught:
        Keyring(f"{NEW},{OLD}").decrypt(sealed)
    assert not [secret for secret in (NEW, OLD, OTHER, PLAIN) if secret in shown(caught.value)]


def test_no_single_changed_character_goes_unnoticed() -> None:
    keyring, sealed = Keyring(NEW), Keyring(NEW).encrypt(PLAIN)
    opened = []
    for place in range(len(sealed.rstrip("=")) - 1):  # of the last character some bits are no part of the text
        other = "A" if sealed[place] != "A" else "B"
        try:
            opened.append(keyring.decrypt(sealed[:place] + other + sealed[place + 1 :]))
        except DecryptionFailed:
            continue
    assert opened == []


@pytest.mark.parametrize("sealed", ["", "plain text", PLAIN, "gAAAAA", "пароль", "\0", "\ud800"])
def test_what_was_never_sealed_is_not_opened(sealed: str) -> None:
    with pytest.raises(DecryptionFailed):
        Keyring(NEW).decrypt(sealed)


def test_sealed_bytes_that_are_no_text_are_not_opened_as_garbage() -> None:
    with pytest.raises(DecryptionFailed) as caught:
        Keyring(NEW).decrypt(Fernet(NEW).encrypt(b"\xff\xfe").decode())
    assert caught.value.__suppress_context__


def test_half_a_surrogate_pair_is_refused_without_showing_the_text() -> None:
    with pytest.raises(ValueRefused) as caught:
        Keyring(NEW).encrypt(f"{PLAIN}\ud800")
    assert PLAIN not in shown(caught.value)


def test_neither_repr_nor_str_of_a_keyring_shows_a_key() -> None:
    keyring = Keyring(f"{NEW},{OLD}")
    assert not [key for key in (NEW, OLD) if key in f"{keyring!r}{keyring}{keyring.__class__}"]


def test_generated_keys_are_fernet_keys_and_all_different() -> None:
    keys = {generate_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(Keyring(key).decrypt(Keyring(key).encrypt(PLAIN)) == PLAIN for key in keys)


# Fingerprints, and what a rotation does with one value.


def test_fingerprints_tell_keys_apart_and_hold_nothing_of_them() -> None:
    found = Keyring(f"{NEW},{OLD},{OTHER}").fingerprints
    assert len(set(found)) == 3
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in found)
    assert not [name for name in found for key in (NEW, OLD, OTHER) if name in key or name in base64.urlsafe_b64decode(key).hex()]
    assert Keyring(OLD).fingerprints == found[1:2]


def test_a_key_that_is_there_twice_counts_once() -> None:
    one, other = generate_key(), generate_key()
    assert Keyring(f"{one},{other},{one}, {other}").fingerprints == Keyring(f"{one},{other}").fingerprints
    sealer = Keyring(f"{other},{one},{other}").sealer()
    assert [sealer.look(Keyring(key).encrypt("x"))[0] for key in (one, other, one)] == [1, 0, 1]


def test_a_key_has_one_fingerprint_in_both_alphabets_of_base64() -> None:
    assert Keyring(f"{'-_' * 21}-=").fingerprints == Keyring(f"{'+/' * 21}+=").fingerprints


@pytest.mark.parametrize("work", [lambda keyring: keyring.fingerprints, Keyring.sealer])
def test_without_a_key_there_is_nothing_to_seal_with(work: Callable[[Keyring], object]) -> None:
    with pytest.raises(KeyMissing):
        work(Keyring(None))
    with pytest.raises(KeyInvalid):
        work(Keyring("secret"))


def test_a_look_tells_the_key_of_each_value_in_any_order() -> None:
    sealer = Keyring(f"{NEW},{OLD}").sealer()
    keys = [0, 1, 1, 0, None, 1, 0]
    values = [PLAIN if key is None else Keyring((NEW, OLD)[key]).encrypt(PLAIN) for key in keys]
    assert [sealer.look(value) for value in values] == [(key, None) for key in keys]


def test_a_rotation_seals_with_the_first_key_what_another_one_sealed() -> None:
    sealer = Keyring(f"{NEW},{OLD}").sealer()
    number, sealed = sealer.rotate(Keyring(OLD).encrypt(PLAIN))
    assert number == 1
    assert Keyring(NEW).decrypt(sealed or "") == PLAIN
    assert sealer.rotate(Keyring(NEW).encrypt(PLAIN)) == (0, None)
    assert sealer.rotate(Keyring(OTHER).encrypt(PLAIN)) == (None, None)
    assert sealer.rotate(PLAIN) == (None, None)


def test_a_rotation_keeps_bytes_that_are_no_text() -> None:
    _, sealed = Keyring(f"{NEW},{OLD}").sealer().rotate(Fernet(OLD).encrypt(b"\xff\xfe").decode())
    assert Fernet(NEW).decrypt(sealed or "") == b"\xff\xfe"


@pytest.mark.parametrize("plain", [PLAIN, "", "пароль", "gAAAA"])
def test_plaintext_is_sealed_and_nothing_else_is(plain: str) -> None:
    sealer = Keyring(f"{NEW},{OLD}").sealer()
    number, sealed = sealer.encrypt(plain)
    assert number is None
    assert Keyring(NEW).decrypt(sealed or "") == plain
    for key, expected in ((NEW, 0), (OLD, 1), (OTHER, None)):
        assert sealer.encrypt(Keyring(key).encrypt(plain)) == (expected, None)


def test_what_is_left_of_a_sealed_value_still_looks_sealed() -> None:
    sealed = Keyring(OTHER).encrypt(PLAIN)
    assert all(map(looks_sealed, (sealed, sealed[:70], base64.b64encode(sealed.encode()).decode())))
    assert not any(map(looks_sealed, (PLAIN, "", "пароль")))


# Keys of settings.


def test_a_key_file_holds_one_key_a_line_and_the_first_seals(folder: Path) -> None:
    (folder / "keys").write_text(f"{NEW}\n\n  {OLD}  \n")
    keyring = keyring_of(load_settings(project_root=folder, environ={"FININFRA_DB_KEYS_FILE": "keys"}))
    assert repr(keyring) == "<Keyring of 2 keys>"
    assert Keyring(NEW).decrypt(keyring.encrypt(PLAIN)) == PLAIN
    assert keyring.decrypt(Keyring(OLD).encrypt(PLAIN)) == PLAIN


def test_a_key_file_may_be_written_with_commas_too(folder: Path) -> None:
    (folder / "keys").write_text(f"{NEW},\n{OLD}\n")
    keyring = keyring_of(load_settings(project_root=folder, environ={"FININFRA_DB_KEYS_FILE": str(folder / "keys")}))
    assert keyring.decrypt(Keyring(OLD).encrypt(PLAIN)) == PLAIN


def test_a_missing_key_file_is_an_error_and_never_no_key(folder: Path) -> None:
    with pytest.raises(KeyMissing, match="FININFRA_DB_KEYS_FILE"):
        load_settings(project_root=folder, environ={"FININFRA_DB_KEYS_FILE": "nowhere"})


def test_keys_win_over_a_key_file(folder: Path) -> None:
    (folder / "keys").write_text(OLD)
    environ = {"FININFRA_DB_KEYS": NEW, "FININFRA_DB_KEYS_FILE": "keys"}
    assert Keyring(NEW).decrypt(keyring_of(load_settings(project_root=folder, environ=environ)).encrypt(PLAIN)) == PLAIN


# The keys of the process.


def test_without_a_key_the_process_seals_nothing(folder: Path) -> None:
    assert not default_keyring()
    with pytest.raises(KeyMissing):
        encrypt_field(PLAIN)
    with pytest.raises(KeyMissing):
        decrypt_field("anything")


def test_the_process_follows_its_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FININFRA_DB_KEYS", OLD)
    before = encrypt_field(PLAIN)
    assert decrypt_field(before) == PLAIN
    monkeypatch.setenv("FININFRA_DB_KEYS", NEW)
    with pytest.raises(DecryptionFailed):
        decrypt_field(before)
    assert Keyring(NEW).decrypt(encrypt_field(PLAIN)) == PLAIN
    monkeypatch.setenv("FININFRA_DB_KEYS", f"{NEW},{OLD}")
    assert decrypt_field(before) == PLAIN
    monkeypatch.delenv("FININFRA_DB_KEYS")
    with pytest.raises(KeyMissing):
        decrypt_field(before)


def test_the_process_reads_dotenv_of_the_project_around_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "src").mkdir()
    (folder / "alembic.ini").write_text("")
    (folder / ".env").write_text(f"FININFRA_DB_KEYS={OLD}\n")
    monkeypatch.chdir(folder / "src")
    assert Keyring(OLD).decrypt(encrypt_field(PLAIN)) == PLAIN
    monkeypatch.setenv("FININFRA_DB_KEYS", NEW)
    assert Keyring(NEW).decrypt(encrypt_field(PLAIN)) == PLAIN


def test_the_process_reads_a_key_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "keys").write_text(f"{NEW}\n{OLD}\n")
    monkeypatch.setenv("FININFRA_DB_KEYS_FILE", str(folder / "keys"))
    assert decrypt_field(Keyring(OLD).encrypt(PLAIN)) == PLAIN


def test_sealing_needs_no_database_url_even_in_production(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("FININFRA_DB_KEYS", NEW)
    assert decrypt_field(encrypt_field(PLAIN)) == PLAIN


def test_the_package_exports_the_guides_functions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fininfra_db

    monkeypatch.setenv("FININFRA_DB_KEYS", fininfra_db.generate_key())
    assert fininfra_db.decrypt_field(fininfra_db.encrypt_field(PLAIN)) == PLAIN
