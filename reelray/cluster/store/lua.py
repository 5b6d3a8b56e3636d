"""Lua that the scripts share: time, keys, a job's moves between states.

Keys, all below the prefix:

    job:<ref>                 hash: what a job is; the truth
    led:<ref>                 hash: commit unit -> fence|time|record
    ev:<ref>                  stream: what happened, numbered from 1, trimmed
    key:<tenant>:<hash>       string: job id of a client's key
    place:<ref>               string: where a forgotten job was in the lists, for those that are in the middle of one
    idx:<tenant>:<state|all>  sorted set: job ids by submission
    ready:<queue>             sorted set: refs by priority, then submission
    leases, delayed, ends     sorted sets: refs by when the lease, the pause, the retention is over
    hooks                     sorted set: refs of ended jobs whose end is still to be told, by when to try (again)

A ref is `<tenant>:<id>`. Only the server's clock counts; times are in milliseconds since 1970.
"""

CLOCK = """
local P = KEYS[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local function whole(x) return string.format('%.0f', x) end
-- Larger than all before it, also those of data that were lost: the time in microseconds, or one more than the last.
local function next_fence(last)
  return whole(math.max(tonumber(last or 0) + 1, tonumber(clock[1]) * 1000000 + tonumber(clock[2])))
end
-- Where memory is full a script may still write if it has written already; work that goes on must get to its end.
local function even_when_full() redis.call('DEL', P .. ':none') end
"""

JOBS = (
    CLOCK
    + """
local KEPT_EVENTS = 512
local ENDED = {done = true, failed = true, cancelled = true}
local function job_key(ref) return P .. ':job:' .. ref end
local function field(ref, name) return redis.call('HGET', job_key(ref), name) end
local function split(ref) return string.match(ref, '^([^:]+):(.+)$') end
local function index(tenant, state) return P .. ':idx:' .. tenant .. ':' .. state end

local function note(ref, kind, data)
  local n = redis.call('HINCRBY', job_key(ref), 'events', 1)
  redis.call('XADD', P .. ':ev:' .. ref, 'MAXLEN', KEPT_EVENTS, whole(n) .. '-0',
    'kind', kind, 'data', data, 'at', whole(now))
end

local function move(ref, to)
  local tenant, id = split(ref)
  local was = redis.call('HMGET', job_key(ref), 'state', 'seq')
  if was[1] == to then return end
  redis.call('ZREM', index(tenant, was[1]), id)
  redis.call('ZADD', index(tenant, to), was[2], id)
  redis.call('HSET', job_key(ref), 'state', to)
  note(ref, 'state', to)
end

-- A job that somebody deleted by hand, or a server without room evicted: no index may hold others up because of it.
local function is_gone(ref) return redis.call('EXISTS', job_key(ref)) == 0 end

local function enqueue(ref)
  local job = redis.call('HMGET', job_key(ref), 'queue', 'order')
  redis.call('ZADD', P .. ':ready:' .. job[1], job[2], ref)
end

local function withdraw(ref)
  redis.call('ZREM', P .. ':leases', ref)
  redis.call('ZREM', P .. ':delayed', ref)
  redis.call('ZREM', P .. ':ready:' .. field(ref, 'queue'), ref)
end

local function settle(ref, state, name, text)
  withdraw(ref)
  redis.call('HSET', job_key(ref), 'ended_ms', whole(now), 'owner', '', name, text)
  move(ref, state)
  local job = redis.call('HMGET', job_key(ref), 'retention_ms', 'key', 'webhook')
  local tenant = split(ref)
  for _, key in ipairs({job_key(ref), P .. ':led:' .. ref, P .. ':ev:' .. ref}) do
    redis.call('PEXPIRE', key, job[1])
  end
  if job[2] ~= '' then redis.call('PEXPIRE', P .. ':key:' .. tenant .. ':' .. job[2], job[1]) end
  redis.call('ZADD', P .. ':ends', whole(now + tonumber(job[1])), ref)
  if job[3] then redis.call('ZADD', P .. ':hooks', whole(now), ref) end
end

-- Back to the queue, or failed if it was taken too often since it last got on.
local function give_up(ref, why, pause_ms)
  local job = redis.call('HMGET', job_key(ref), 'attempts', 'max_attempts')
  if tonumber(job[1]) >= tonumber(job[2]) then
    settle(ref, 'failed', 'error', why)
    return 'failed'
  end
  redis.call('ZREM', P .. ':leases', ref)
  redis.call('HSET', job_key(ref), 'owner', '', 'error', why)
  move(ref, 'queued')
  if pause_ms > 0 then redis.call('ZADD', P .. ':delayed', whole(now + pause_ms), ref) else enqueue(ref) end
  return 'queued'
end

-- What time alone has changed: leases that are over, pauses that are over, jobs that were kept long enough.
local function catch_up(most)
  local function due(name)
    return redis.call('ZRANGEBYSCORE', P .. ':' .. name, '-inf', whole(now), 'LIMIT', 0, most)
  end
  for _, ref in ipairs(due('leases')) do
    redis.call('ZREM', P .. ':leases', ref)
    if not is_gone(ref) then give_up(ref, 'the lease of ' .. field(ref, 'owner') .. ' ran out', 0) end
  end
  for _, ref in ipairs(due('delayed')) do
    redis.call('ZREM', P .. ':delayed', ref)
    if not is_gone(ref) then enqueue(ref) end
  end
  for _, ref in ipairs(due('ends')) do
    local tenant, id = split(ref)
    redis.call('ZREM', P .. ':ends', ref)
    redis.call('ZREM', P .. ':hooks', ref)
    redis.call('ZREM', index(tenant, 'all'), id)
    for state in pairs(ENDED) do redis.call('ZREM', index(tenant, state), id) end
  end
end

-- Why who holds this fence may not act, or nil where it may.
local function refusal(ref, fence)
  local job = redis.call('HMGET', job_key(ref), 'state', 'fence')
  if not job[1] then return 'it is gone' end
  if job[1] ~= 'running' then return 'it is ' .. job[1] end
  if job[2] ~= fence then return 'it has fence ' .. job[2] .. ' now' end
  return nil
end

-- A closing step that ran already, before its answer was lost on the way.
local function closed(ref, step, fence) return field(ref, 'closed') == step .. ':' .. fence end
local function close(ref, step, fence) redis.call('HSET', job_key(ref), 'closed', step .. ':' .. fence) end
"""
)

# Rates and quotas of a tenant; each is looked at first and drawn from afterwards, so that a refusal takes nothing.
LIMITS = """
local function bucket_level(key, per_s, burst)
  local was = redis.call('HMGET', key, 'level', 'at')
  if not was[1] then return burst end
  return math.min(burst, tonumber(was[1]) + math.max(0, now - tonumber(was[2])) * per_s / 1000)
end
local function bucket_wait_ms(level, n, per_s)
  if level >= n then return 0 end
  return math.ceil((n - level) * 1000 / per_s)
end
local function bucket_set(key, level, per_s, burst)
  redis.call('HSET', key, 'level', string.format('%.6f', level), 'at', whole(now))
  redis.call('PEXPIRE', key, math.ceil(burst * 1000 / per_s) + 1000)
end

-- A window that slides in SLICES steps: units by the time at which their slice began, whatever its width was then.
local SLICES = 60
local function window_used(key, width_ms)
  local width, rows, used = width_ms / SLICES, redis.call('HGETALL', key), 0
  local slices = {}
  for i = 1, #rows, 2 do
    local slice = tonumber(rows[i])
    if slice + width + width_ms > now then
      used = used + tonumber(rows[i + 1])
      table.insert(slices, {slice, tonumber(rows[i + 1])})
    else
      redis.call('HDEL', key, rows[i])
    end
  end
  return used, slices
end
local function window_wait_ms(key, n, limit, width_ms)
  local used, slices = window_used(key, width_ms)
  if used + n <= limit then return 0 end
  table.sort(slices, function(a, b) return a[1] < b[1] end)
  for _, slice in ipairs(slices) do
    used = used - slice[2]
    if used + n <= limit then return math.max(1, math.ceil(slice[1] + width_ms / SLICES + width_ms - now)) end
  end
  return math.ceil(width_ms)
end
local function window_add(key, n, width_ms)
  local width = width_ms / SLICES
  local slice = whole(math.floor(math.floor(now / width) * width))
  redis.call('HINCRBY', key, slice, n)
  redis.call('PEXPIRE', key, math.ceil(width_ms * (1 + 1 / SLICES)) + 1000)
  return slice
end
"""
