"""How much work is taken at once, and in which order it reaches the engine.

`Admission` lets requests in and `Permit` is what each of them holds; both only tell what a `Line`,
one for each replica, decides: its `FairQueue` whose turn it is, its `Gate` whether there is room,
its `Bounds` who is refused, its `Prediction` how long something takes.
"""

from gateway.admission.admission import Admission
from gateway.admission.demand import Demand, QueueStats
from gateway.admission.permit import Permit

__all__ = ["Admission", "Demand", "Permit", "QueueStats"]
