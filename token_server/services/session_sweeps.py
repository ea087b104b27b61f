"""Ending all sessions of a client, of a user, or of everybody, in bounded batches.

What must be refused at once is refused by the row that a caller changes before: a disabled client
by its flag. The sweep then brings the end to every session and status list. Its first batch and its
end are audited: one that was broken off leaves a trace, and goes on when it is asked for again.
"""

import asyncio
from dataclasses import replace

from token_server.records import AuditEvent
from token_server.runtime import Runtime
from token_server.storage import audit
from token_server.storage.family_sweeps import Progress, Sweep, begin_sweep, continue_sweep

BATCH = 2000
PAUSE_S = 0.02  # in which others write


async def sweep_sessions(runtime: Runtime, sweep: Sweep, event: AuditEvent) -> int:
    """End the sessions that exist now; how many. `event` is audited with `sessions_ended`.

    Raises UnavailableError half-way when the database goes away: what was ended stays so.
    """
    audited = None
    async with runtime.store.write() as connection:
        progress = await begin_sweep(connection, sweep, BATCH)
        if progress.ended:
            audited = replace(event, details={"sessions_ended": progress.ended})
            await audit.insert_events(connection, [audited])
    if audited is not None:
        runtime.audit.log(audited)
    return progress.ended + await finish_sweep(runtime, progress, event)


async def finish_sweep(runtime: Runtime, progress: Progress, event: AuditEvent) -> int:
    """What is left after the first batch; how many sessions that ended."""
    total = 0
    while not progress.is_complete:
        await asyncio.sleep(PAUSE_S)
        audited = None
        # Its own instant for each batch: status lists follow it (storage/status_cache.py), and
        # would miss what is written minutes after the instant that it bears.
        sweep = replace(progress.sweep, now=runtime.clock.now())
        async with runtime.store.write() as connection:
            progress = await continue_sweep(connection, replace(progress, sweep=sweep), BATCH)
            total += progress.ended
            if progress.is_complete and total:
                audited = replace(event, details={"sessions_ended": total})
                await audit.insert_events(connection, [audited])
        if audited is not None:
            runtime.audit.log(audited)
    return total
