"""Quotas of a server without any."""

from reelray.cluster.gateway.live_quotas import LiveQuotas
from reelray.cluster.gateway.tenant_quotas import TenantQuotas


def free_quotas() -> LiveQuotas:
    return LiveQuotas(TenantQuotas(), None)
