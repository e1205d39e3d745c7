"""Sealing in a process of its own: it is most of the work of a rotation, and goes on there while the database does its part.

The other process is given the keys and the values through a pipe. It ends when the pipe does, whatever ends this process.
"""

import asyncio
import gc
import pickle
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, BinaryIO, Final

from fininfra_db.errors import ResealingFailed
from fininfra_db.security import Keyring, Sealer, Verdict

Examine = Callable[[Sequence[str]], Coroutine[Any, Any, list[Verdict]]]

_LENGTH: Final = 8
_START: Final = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from fininfra_db.data.worker import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
)


def examiner(keyring: Keyring, way: str) -> Callable[[str], Verdict]:
    """What is done with a value on a way. Raises ``KeyMissing`` or ``KeyInvalid``."""
    sealer = keyring.sealer()
    ways: dict[str, Callable[[Sealer, str], Verdict]] = {"look": Sealer.look, "rotate": Sealer.rotate, "encrypt": Sealer.encrypt}
    return lambda value: ways[way](sealer, value)


@asynccontextmanager
async def worker(keyring: Keyring, way: str) -> AsyncIterator[Examine]:
    """A process that examines values, in the order in which they are given, for as long as the block runs.

    Signals of the terminal do not reach it. Raises ``ResealingFailed`` when it cannot be started, or ends.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _START, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    except (OSError, TypeError, ValueError) as error:  # Python inside another program may have no file of its own
        raise ResealingFailed(f"The process that seals cannot be started: {error}. Nothing was changed.") from error
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout
    requests.write(pickle.dumps(sys.path) + pickle.dumps((keyring, way)))

    async def examine(values: Sequence[str]) -> list[Verdict]:
        try:
            requests.write(_framed(values))
            await requests.drain()
            length = int.from_bytes(await answers.readexactly(_LENGTH))
            verdicts: list[Verdict] = pickle.loads(await answers.readexactly(length))
        except (OSError, asyncio.IncompleteReadError):
            raise ResealingFailed(
                "The process that seals has ended; the batch at hand was rolled back.", "Run the command again."
            ) from None
        return verdicts

    try:
        yield examine
    finally:
        with suppress(ProcessLookupError):  # it has ended already
            process.kill()
        await process.wait()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The other process: examine what comes, until nothing comes any more."""
    gc.disable()  # nothing here refers to itself
    keyring, way = pickle.load(requests)
    examine = examiner(keyring, way)
    while length := int.from_bytes(requests.read(_LENGTH)):
        answers.write(_framed([examine(value) for value in pickle.loads(requests.read(length))]))
        answers.flush()


def _framed(message: Any) -> bytes:
    """A message with its length before it."""
    data = pickle.dumps(message)
    return len(data).to_bytes(_LENGTH) + data
