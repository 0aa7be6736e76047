"""Of each Python that tests start: what torch makes is not looked through for garbage while it is imported, whoever
imports it (`ffdist.loading` is for ffdist's own processes), nor once more at the end: a third of the time it takes."""

import atexit
import gc
import sys
from importlib.util import find_spec


class Unsearched:
    """Among `sys.meta_path`: finds torch as the others do."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                enabled = gc.isenabled()
                gc.disable()
                try:
                    run(module)
                finally:
                    gc.freeze()
                    if enabled:
                        gc.enable()

            spec.loader.exec_module = exec_module
        return spec


def at_the_end():
    """Of a forked process its own objects are looked through, all others are frozen already (`ffdist.exiting`)."""
    exiting = sys.modules.get("ffdist.exiting")
    if exiting is None or not exiting.is_forked():
        gc.freeze()


sys.meta_path.insert(0, Unsearched())
atexit.register(at_the_end)
