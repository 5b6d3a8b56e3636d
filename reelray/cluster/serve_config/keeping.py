"""What a file says of callers' uploads and quotas; for one machine and for a cluster alike."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.assets.room import MOST_UPLOADS
from reelray.cluster.gateway.tenant_quotas import TenantQuota, TenantQuotas
from reelray.cluster.store.names import check_name
from reelray.proto.errors import InputError

CLOSED = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class QuotaConfig(BaseModel):
    """How much a tenant may ask for; null lifts a limit."""

    model_config = CLOSED

    renders_per_minute: float | None = Field(default=None, ge=0.001, le=1_000_000, description="Submitted.")
    open_renders: int | None = Field(default=None, ge=0, le=1_000_000, description="Queued or running.")
    frames_per_day: int | None = Field(default=None, ge=1, le=10**12, description="Of all that it asks for.")
    live_per_minute: float | None = Field(default=None, ge=0.001, le=1_000_000, description="Live videos begun.")
    open_live: int | None = Field(default=None, ge=0, le=1_000_000, description="Live videos that wait or are made.")


class QuotasConfig(BaseModel):
    """Of all tenants."""

    model_config = CLOSED

    everybody: QuotaConfig = Field(default_factory=QuotaConfig, description="Of each tenant.")
    tenants: dict[str, QuotaConfig] = Field(default={}, description="By name, where something else holds for them.")

    @field_validator("tenants")
    @classmethod
    def _check_names(cls, tenants: dict[str, QuotaConfig]) -> dict[str, QuotaConfig]:
        try:
            for name in tenants:
                check_name("tenant", name)
        except InputError as error:
            raise ValueError(error.message) from None
        return tenants

    def quotas(self) -> TenantQuotas:
        """The same in the words of the gateway."""
        common = self.everybody.model_dump()
        own = {name: quota.model_dump(exclude_unset=True) for name, quota in self.tenants.items()}
        return TenantQuotas(
            everybody=TenantQuota(**common),
            tenants={name: TenantQuota(**{**common, **said}) for name, said in own.items()},
        )


class KeepingConfig(BaseModel):
    """Keys that a server of one machine and gateways of a cluster have in common."""

    model_config = CLOSED

    asset_days: float = Field(default=7.0, ge=0.001, le=3650, description="Longest time that an upload is kept.")
    asset_gb: float = Field(default=10.0, ge=0.001, le=1_000_000, description="Most GB of each tenant's uploads.")
    asset_mb: float = Field(default=2000.0, ge=0.001, le=1_000_000, description="Most MB of one of them.")
    asset_count: int = Field(default=10_000, ge=1, le=100_000, description="How many a tenant may have.")
    asset_uploads: int = Field(default=8, ge=1, le=MOST_UPLOADS, description="How many it may send at a time.")
    quotas: QuotasConfig = Field(default_factory=QuotasConfig, description="How much tenants may ask for.")


def asset_rule(said: Mapping[str, Any]) -> AssetRule:
    """The rule in the words of options and keys; a GB is 10^9 bytes, a MB 10^6.

    Args:
        said: `asset_days` and so on, by name.
    """
    return AssetRule(
        keep_s=said["asset_days"] * 86_400.0,
        most_bytes=max(1, round(said["asset_gb"] * 1e9)),
        largest_bytes=max(1, round(said["asset_mb"] * 1e6)),
        most_assets=said["asset_count"],
        most_uploads=said["asset_uploads"],
    )
