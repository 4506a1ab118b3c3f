"""Load the pipelines in a thread of their own: kfp inspects every frame of the stack for every task.

Below pytest's stack, with the whole suite's modules loaded, that takes half a minute; here it takes a second.
"""

from __future__ import annotations

import importlib
import threading

_loading = threading.Thread(target=importlib.import_module, args=["aquatint_pipelines.pipelines"])
_loading.start()
_loading.join()
