"""The state machine of an association (PS3.8 section 9.2), for which nothing that comes at the wrong time is fatal."""

from __future__ import annotations

import struct

from pydicom.errors import BytesLengthException
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA

from cxrnode.dicom.hardening.sockets import BoundedSocket
from cxrnode.dicom.outgoing import Outgoing

#: What a malformed PDU or message makes pydicom and pynetdicom raise; the association ends with it.
MALFORMED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError),
    *(BytesLengthException, RecursionError, TypeError, ValueError, struct.error),
)


#: What our side asks for, by the event that it makes (PS3.8 9.2.2).
_PRIMITIVES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("Evt1", "Evt7", "Evt8"), (A_ASSOCIATE,)),
    "Evt9": (P_DATA,),
    **dict.fromkeys(("Evt11", "Evt14"), (A_RELEASE,)),
    "Evt15": (A_ABORT, A_P_ABORT),
}


class TolerantMachine(StateMachine):
    """The state machine of PS3.8 table 9-10, where an event that the table does not have for a state changes nothing.

    They are our own primitives, sent while the peer was ending the association: everything that a peer can do is in
    the table.
    """

    def do_action(self, event: str) -> None:
        """Do what the table says, if it says anything.

        A peer that was told A-ABORT and sends on what is no PDU is hung up on, as if the timer had run out: the table
        would answer each six bytes of it with another A-ABORT.
        """
        if self.current_state == "Sta13" and event == "Evt19":
            event = "Evt18"
        # Sta8: the peer asked for the release behind its last object, and still hears what became of that (AR-7).
        if event == "Evt9" and self.current_state in ("Sta6", "Sta8") and self._send_whole():
            return
        if (event, self.current_state) not in TRANSITION_TABLE:
            self._let_go(event)
            return
        try:
            super().do_action(event)
        except MALFORMED:
            # An A-ABORT for a reason that there is not, say: as if the peer had hung up.
            if isinstance(self.dul.socket, BoundedSocket):
                self.dul.socket.hang_up()
            self.dul.event_queue.put("Evt17")

    def _let_go(self, event: str) -> None:
        """Take the primitive of an event from the head of the queue: nothing else would be looked at while it stands
        there, not even that the peer has gone, and the thread would go round for nothing else.
        """
        waiting = self.dul.to_provider_queue.queue
        if waiting and isinstance(waiting[0], _PRIMITIVES.get(event, ())):
            self.dul.to_provider_queue.get(False)

    def _send_whole(self) -> bool:
        """Actions DT-1 and AR-7 for a message that goes as it lies in memory; False where another comes first."""
        waiting = self.dul.to_provider_queue.queue
        request = waiting[0] if waiting else None
        if not isinstance(request, Outgoing) or not isinstance(self.dul.socket, BoundedSocket):
            return False
        self.dul.to_provider_queue.get(False)
        self.dul.socket.send_pieces(request.pieces)
        return True
