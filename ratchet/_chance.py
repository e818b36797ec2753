"""The one source of chance: whatever is drawn at random is drawn from here.

`chance.seed(number)` lets a run be repeated exactly.  It is not the generator that
`random`'s functions share: a program that seeds that one for reasons of its own does
not thereby make all its processes connect again in step, and what it draws does not
depend on what we draw.

Names that nobody else may have, such as those of processes, are not chance: they must
not come twice, however a run is seeded.
"""

from __future__ import annotations

import os
from random import Random
from typing import Final

chance: Final = Random()

# Or the children of one parent would all draw the same.
os.register_at_fork(after_in_child=chance.seed)
