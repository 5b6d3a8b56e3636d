"""Holds what lies in a store against itself, as of one moment."""

from reelray.cluster.store.job import JobState

# All sorted sets and the few fields of jobs that the check needs, in one change.
_DUMP = """
local sets, jobs = {}, {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local name = string.sub(key, #ARGV[1] + 2)
  if redis.call('TYPE', key).ok == 'zset' then
    table.insert(sets, {name, redis.call('ZRANGE', key, 0, -1)})
  elseif string.sub(name, 1, 4) == 'job:' then
    local job = redis.call('HMGET', key, 'state', 'fence', 'events')
    local log, units = 'ev:' .. string.sub(name, 5), 'led:' .. string.sub(name, 5)
    table.insert(job, redis.call('XLEN', ARGV[1] .. ':' .. log))
    table.insert(job, redis.call('HLEN', ARGV[1] .. ':' .. units))
    table.insert(jobs, {string.sub(name, 5), job})
  end
end
return {sets, jobs}
"""


async def check_store(store):
    """Every index says what the jobs themselves say.

    Returns:
        The state, fence, events and commits of each job by its ref.
    """
    # The prefix goes as an argument: its braces are no pattern, and KEYS takes them as they are.
    sets, rows = await store.connection.command("EVAL", _DUMP, 0, store.connection.prefix)
    members = {name.decode(): {one.decode() for one in row} for name, row in sets}
    jobs = {ref.decode(): (JobState(job[0].decode()), int(job[1]), int(job[2]), job[4]) for ref, job in rows}
    assert all(job[3] == min(int(job[2]), 512) for _, job in rows)
    expected = {}
    for ref, (state, *_) in jobs.items():
        tenant, job_id = ref.split(":")
        for name in ("all", state.value):
            expected.setdefault(f"idx:{tenant}:{name}", set()).add(job_id)
        expected.setdefault({"queued": "waiting", "running": "leases"}.get(state.value, "ends"), set()).add(ref)
    waiting = [members.pop(name) for name in list(members) if name.startswith("ready:") or name == "delayed"]
    assert sum(map(len, waiting)) == len(set().union(*waiting))
    if waiting:
        members["waiting"] = set().union(*waiting)
    assert members == expected
    return jobs
