"""Stopping a run: the row first, then a nudge to whoever holds it. A lost nudge is made good by the holder's beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import to_jsonable
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import CancelKind, CancelRequest, RunQueue
from asm_core.ports.store import SessionStore
from asm_core.ports.wakeups import Nudges, Wakeups


@dataclass(frozen=True, slots=True)
class Control:
    queue: RunQueue
    store: SessionStore
    wakeups: Wakeups
    nudges: Nudges
    publisher: Publisher
    redactor: Redactor = REDACTOR

    async def cancel(self, run_id: str, tenant_id: str) -> CancelRequest:
        """
        Cancel a run: a queued one at once, one in flight within its adapter's grace; a terminal one stays as it is.

        Raises:
            AsmError: `run_not_found`, `storage_connection_failed`.
        """
        return await self._request(run_id, tenant_id, "cancel")

    async def interrupt(self, run_id: str, tenant_id: str) -> CancelRequest:
        """
        Stop a run in flight; it ends `cancelled` with reason `interrupted`.

        Raises:
            AsmError: `run_not_found`; `invalid_operation` when it is not in flight.
        """
        run = await self.store.get_run(run_id, tenant_id)
        if run.status is not RunStatus.RUNNING:
            message = f"run {run_id} is {run.status}; only a run in flight can be interrupted"
            raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"run_id": run_id, "status": str(run.status)})
        return await self._request(run_id, tenant_id, "interrupt")

    async def cancel_for_approval(self, run_id: str, tenant_id: str, approval: Mapping[str, Any]) -> CancelRequest:
        """
        Cancel a run because something must be approved first; it ends `cancelled` with reason `approval_requested`.

        Args:
            approval: `tool_name, tool_call_id, tool_input, policy_name, violation_kind`; the data of the
                `tool_approval_requested` that comes before the run's end. Secrets in it are not stored.

        Raises:
            AsmError: `run_not_found`, `storage_connection_failed`.
        """
        return await self._request(run_id, tenant_id, "approval", to_jsonable(self.redactor.value(approval)))

    async def _request(
        self, run_id: str, tenant_id: str, kind: CancelKind, approval: Mapping[str, Any] | None = None
    ) -> CancelRequest:
        request = await self.queue.request_cancel(run_id, tenant_id, kind, approval)
        self.publisher.publish(request.events)
        self.wakeups.wake(request.wake)
        if request.worker_id is not None:
            await self.nudges.nudge(request.worker_id, run_id, kind)
        return request
