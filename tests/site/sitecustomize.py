"""Of each Python that tests start: what it has made is not looked through for garbage once more at its end, which with
torch would take half a second."""

import atexit
import gc

atexit.register(gc.freeze)
