"""What must outlive a process: jobs, leases, the ledger of commits, events, sessions, leadership, quotas.

One implementation over the Redis protocol. Each change is one Lua script with the server's time, so that no half of it
is ever seen, whoever dies. `open.open_store` is the way in; `docs/store.md` says what is promised.
"""
