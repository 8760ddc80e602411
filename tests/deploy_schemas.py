"""What KubeRay and Kubernetes take, for the kinds and fields that deploy/kubernetes uses, and no field beside them.

Written from the API reference of KubeRay 1.6 (RayJobSpec, RayClusterSpec, AutoscalerOptions, AuthOptions) and of the
Kubernetes API. A field that is misspelt, or new in a file, is refused until it is described here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
NAME: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}
"""A label of DNS (1035); KubeRay adds to the name of a RayJob, so that it has 47 characters at most."""
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"}


def closed(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object with these properties alone."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def mapping(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


METADATA = closed(("name",), name=NAME, namespace=NAME, labels=mapping(TEXT), annotations=mapping(TEXT))
SOURCE = closed(("name",), name=NAME, optional={"type": "boolean"})
CONTAINER = closed(
    ("name", "image", "resources"),
    name=NAME,
    image={"type": "string", "pattern": r"^[\w./-]+:[\w.-]+$"},
    env=many(closed(("name", "value"), name=TEXT, value=TEXT)),
    envFrom=many({"oneOf": [closed(("configMapRef",), configMapRef=SOURCE), closed(("secretRef",), secretRef=SOURCE)]}),
    resources=closed(("requests", "limits"), requests=mapping(QUANTITY), limits=mapping(QUANTITY)),
    volumeMounts=many(closed(("name", "mountPath"), name=NAME, mountPath={"type": "string", "pattern": "^/"})),
)
TOLERATION = closed(
    ("key", "operator"),
    key=TEXT,
    operator={"enum": ["Exists", "Equal"]},
    value=TEXT,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)
CLAIM = closed(("claimName",), claimName=NAME, readOnly={"type": "boolean"})
EMPTY = closed(sizeLimit=QUANTITY, medium={"enum": ["", "Memory"]})
VOLUME = {
    "oneOf": [
        closed(("name", "persistentVolumeClaim"), name=NAME, persistentVolumeClaim=CLAIM),
        closed(("name", "emptyDir"), name=NAME, emptyDir=EMPTY),
    ]
}
POD = closed(
    ("containers",),
    # Never: what autoscaler v2 takes.
    restartPolicy={"const": "Never"},
    terminationGracePeriodSeconds=COUNT,
    securityContext=closed(fsGroup=COUNT, runAsUser=COUNT),
    tolerations=many(TOLERATION),
    containers=many(CONTAINER),
    volumes=many(VOLUME),
)
TEMPLATE = closed(("spec",), spec=POD)
START = mapping(TEXT)
"""rayStartParams: options of `ray start`; their values are strings, numbers too."""
HEAD = closed(("template", "rayStartParams"), rayStartParams=START, template=TEMPLATE)
WORKERS = closed(
    ("groupName", "template", "minReplicas", "maxReplicas", "replicas"),
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=START,
    template=TEMPLATE,
)
CLUSTER = closed(
    ("rayVersion", "headGroupSpec", "workerGroupSpecs"),
    # The operator reads it as a version; a number would lose its last zero.
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed(("mode",), mode={"enum": ["disabled", "token"]}, secretName=NAME),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=many(WORKERS),
)
RAY_JOB = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=closed(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        submitterConfig=closed(backoffLimit=COUNT),
        backoffLimit=COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        suspend={"type": "boolean"},
        rayClusterSpec=CLUSTER,
    ),
)
VOLUME_CLAIM = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=METADATA,
    spec=closed(
        ("accessModes", "resources"),
        accessModes=many({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
        storageClassName=NAME,
        resources=closed(("requests",), requests=closed(("storage",), storage=QUANTITY)),
    ),
)
CONFIG_MAP = closed(
    ("apiVersion", "kind", "metadata", "data"),
    apiVersion={"const": "v1"},
    kind={"const": "ConfigMap"},
    metadata=METADATA,
    data={"propertyNames": {"pattern": r"^[-._a-zA-Z0-9]+$"}, **mapping(TEXT)},
)
KINDS = {"RayJob": RAY_JOB, "PersistentVolumeClaim": VOLUME_CLAIM, "ConfigMap": CONFIG_MAP}
