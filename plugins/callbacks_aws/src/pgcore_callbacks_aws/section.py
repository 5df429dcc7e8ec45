"""The keys of the section ``aws``."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.plugin import option

LIMIT_S = 300
RETRY_S = 30
VOLUME_NAME = "spilo_{scope}"


@dataclass(frozen=True, slots=True)
class AwsSection:
    """What is tagged, and for how long that is tried. An empty section (``aws: {}``) uses the defaults."""

    region: str | None = option(None, doc="Region of the EC2 API; the instance's own by default.")
    endpoint_url: str | None = option(None, doc="Address of the EC2 API, such as that of a VPC endpoint; AWS's own by default.")
    tag_volumes: bool = option(True, doc="Tag the attached EBS volumes, too.")
    volume_name: str = option(VOLUME_NAME, doc="Tag `Name` of the volumes, `{scope}` stands for the cluster; empty: left alone.")
    limit: int = option(LIMIT_S, unit="s", minimum=10, maximum=3600,
                        doc="Time for one delivery with all its repetitions. What failed is tried again later.")
    retry: int = option(RETRY_S, unit="s", minimum=1, maximum=600,
                        doc="Pause before a delivery that failed is tried again; doubled each time, up to 10 minutes.")
