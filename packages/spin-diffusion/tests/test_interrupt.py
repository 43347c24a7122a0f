"""Ctrl-C while torch is still being imported: one line, and none of torch's own."""

import subprocess
import sys

SCRIPT = """
import importlib.abc, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        # by then torch has registered statistics to be logged at the exit, and has not set the level of its loggers
        if hasattr(sys.modules.get("torch._subclasses.fake_tensor"), "dump_cache_stats"):
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from spin_diffusion.cli import main
sys.argv = ["spin-diffusion", "doctor"]
sys.exit(main())
"""


def test_nothing_is_logged_at_the_exit() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "spin-diffusion doctor: interrupted; what was finished is kept, the same command goes on\n"
