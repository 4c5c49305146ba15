"""When an engine counts as stuck or dead, and what is done then."""

from __future__ import annotations

from pydantic import Field

from engine.config import Frozen


class HealthConfig(Frozen):
    """When a living engine counts as stuck, and how often a dead one is started again."""

    stall_s: float = Field(
        60.0,
        gt=0,
        description="not ready where requests run but no step ended for so long, though the engine "
        "computes",
    )
    freeze_s: float = Field(
        3.0,
        gt=0,
        description="not ready where requests run, no step ended for so long and the engine's "
        "processes don't compute either",
    )
    restarts: int = Field(
        5,
        ge=0,
        description="a dead engine is started again so often in a row, with growing pauses; then "
        "the program ends with exit code 3; 0: never",
    )
    restart_pause_s: float = Field(
        1.0, gt=0, le=60, description="before the first new start; each next pause is twice as long"
    )
    resume_s: float = Field(
        120.0,
        ge=0,
        description="answers that were being given wait so long for the engine, to go on exactly "
        "where they were; those that can't end at once; 0: all end at once",
    )
    exit_when_dead: bool = Field(
        True,
        description="once no engine is alive or will be again, end the program, with exit code 3",
    )
