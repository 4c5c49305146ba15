"""One row for each request, exactly once, whatever becomes of the request or of this program."""

from gateway.ledger.entry import Entry, Outcome
from gateway.ledger.ledger import Ledger

__all__ = ["Entry", "Ledger", "Outcome"]
