"""A process of ffdist's own ends as Python would end it, but for the freeing of torch's objects."""

import gzip
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from ffdist.exiting import children_heard

PROGRAM = """
import atexit, gc, gzip, sys, tempfile, threading, time, zipfile
from concurrent.futures import ThreadPoolExecutor
from ffdist.exiting import end_process

class Slow:
    def __del__(self):
        print("freed")

OfTorch = type("OfTorch", (Slow,), {"__module__": "torch.sub"})
kept, out, raw = [Slow(), OfTorch()], open(sys.argv[1], "w"), open(sys.argv[2], "wb")
packed, archive = gzip.open(sys.argv[3], "wt"), zipfile.ZipFile(sys.argv[4], "w")
temporary = tempfile.NamedTemporaryFile(dir=sys.argv[5])
gc.freeze()
out.write("written")
raw.write(b"too")
packed.write("packed")
archive.writestr("name", "within")
atexit.register(print, "handler")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
ThreadPoolExecutor(1).submit(lambda: (time.sleep(0.3), print("pool")))
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
end_process(7)
"""


def test_threads_handlers_and_open_files_come_to_their_end_and_nothing_of_torchs_is_freed(tmp_path):
    """`__del__` of torch's classes is all that is left out: archives are complete, and temporary files gone."""
    (tmp_path / "temporary").mkdir()
    begun, files = time.monotonic(), [tmp_path / name for name in ("text", "bytes", "packed", "archive")]
    words = map(str, [*files, tmp_path / "temporary"])
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (7, ["thread", "pool", "handler", "freed"], "")
    assert [file.read_text() for file in files[:2]] == ["written", "too"]
    assert gzip.decompress(files[2].read_bytes()) == b"packed"
    with zipfile.ZipFile(files[3]) as archive:
        assert archive.read("name") == b"within"
    assert not any((tmp_path / "temporary").iterdir())
    assert time.monotonic() - begun < 60, "it waited for a daemon"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--version"], 0, ""),
        (["--no-such"], 2, "there is no option '--no-such'"),
        (["train", "--no-such"], 2, "--no-such"),
    ],
)
def test_the_program_ends_with_the_status_of_its_command(words, status, said):
    """Handlers of `atexit` that another package has registered before are called."""
    code = "import atexit; atexit.register(print, 'last'); from ffdist.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout.splitlines()[-1] == "last"


def test_an_interactive_interpreter_goes_on_after_the_command():
    done = subprocess.run(
        [sys.executable, "-i", "-m", "ffdist", "--version"],
        input="print(6 * 7)\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "42" in done.stdout


def test_a_process_that_ignores_sigchld_hears_how_its_children_end_and_ignores_it_again() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert subprocess.run(["sh", "-c", "exit 3"], check=False).returncode == 0  # which is not what has happened
        with children_heard():
            assert subprocess.run(["sh", "-c", "exit 3"], check=False).returncode == 3
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)
