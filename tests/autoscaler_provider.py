"""A node provider for Ray's autoscaler that starts nodes as processes here; only its monitor imports this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

READY = "up-to-date"


class ProcessNodes(NodeProvider):
    """Nodes by id: their tags, and the process that is the node (None: the head, which was there before)."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        head = {TAG_RAY_NODE_KIND: "head", TAG_RAY_USER_NODE_TYPE: "head", TAG_RAY_NODE_NAME: "head"}
        tags = head | {TAG_RAY_NODE_STATUS: READY}
        self.made: dict[str, tuple[dict[str, str], Any]] = {provider_config["head"]: (tags, None)}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [i for i, (tags, _) in self.made.items() if all(tags.get(k) == v for k, v in tag_filters.items())]

    def is_running(self, node_id: str) -> bool:
        return node_id in self.made

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self.made

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self.made[node_id][0]

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self.made[node_id][0].update(tags)

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, float], labels: Any
    ) -> None:
        for _ in range(count):
            node_id = uuid.uuid4().hex + "0" * 24
            named = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id, "RAY_CLOUD_INSTANCE_ID": node_id}
            named |= {
                "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
                "RAY_OVERRIDE_RESOURCES": json.dumps(resources),
            }
            words = ["start", f"--address={self.provider_config['gcs']}", "--block", "--disable-usage-stats"]
            ray = str(Path(sys.executable).with_name("ray"))
            process = subprocess.Popen([ray, *words, f"--num-cpus={resources['CPU']:g}"], env={**os.environ, **named})
            self.made[node_id] = ({**tags, TAG_RAY_NODE_STATUS: READY}, process)

    def terminate_node(self, node_id: str) -> None:
        process = self.made.pop(node_id)[1]
        if process is not None:
            process.terminate()

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config
