"""Put a version into an InferenceService: patch its storage address, wait until ready, or put the old one back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from aquatint.contract.errors import AquatintError, EngineUnavailable, ModelNotFound

_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_POLL_S = 5.0


class Services(Protocol):
    """The part of ``kubernetes.client.CustomObjectsApi`` that is used here."""

    def get_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, name: str
    ) -> dict[str, Any]:
        """Fetch one object."""

    def patch_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, name: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Apply a JSON merge patch and return the object."""


def connect() -> Services:
    """Connect to the cluster this runs in, else to that of the current kubeconfig context."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    services: Services = client.CustomObjectsApi()
    return services


class InferenceService:
    """One InferenceService. Every method raises ``ModelNotFound`` if there is none, ``EngineUnavailable`` otherwise."""

    def __init__(self, services: Services, namespace: str, name: str, *, poll_s: float = _POLL_S) -> None:
        self._services, self._namespace, self._name, self._poll_s = services, namespace, name, poll_s

    def deploy(
        self, storage_uri: str, *, canary_percent: int | None, timeout_s: float, trial: Callable[[], None] | None = None
    ) -> str:
        """Serve ``storage_uri``; return the address that was served before.

        With ``canary_percent`` (serverless deployments only) that share of the traffic goes to it at first; a ``trial``
        that passes gives it all; without one it keeps its share until ``promote`` or ``roll_back``. If it is not ready
        in time (``EngineUnavailable``) or the trial raises, the old address is put back: its pods keep serving
        meanwhile, since KServe replaces them only with ready ones.
        """
        before = str(self._get()["spec"]["predictor"]["model"].get("storageUri", ""))
        self._patch({"canaryTrafficPercent": canary_percent, "model": {"storageUri": storage_uri}})
        try:
            self._wait_until_ready(timeout_s)
            if trial is not None:
                trial()
        except AquatintError:
            self.roll_back(before)
            raise
        if trial is not None and canary_percent is not None:
            self.promote()
        return before

    def promote(self) -> None:
        """Send all traffic to the canary."""
        self._patch({"canaryTrafficPercent": None})

    def roll_back(self, storage_uri: str) -> None:
        """Send all traffic back to ``storage_uri``."""
        self._patch({"canaryTrafficPercent": None, "model": {"storageUri": storage_uri}})

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            service = self._get()
            status = service.get("status", {})
            # Older conditions describe the spec before the patch.
            seen = status.get("observedGeneration", 0) >= service["metadata"].get("generation", 0)
            conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
            state = status.get("modelStatus", {})
            if seen and conditions.get("Ready") == "True" and state.get("transitionStatus") in (None, "UpToDate"):
                return
            if seen and state.get("transitionStatus") in ("InvalidSpec", "BlockedByFailedLoad"):
                reason = state.get("lastFailureInfo", {}).get("message", state["transitionStatus"])
                raise EngineUnavailable(f"{self._name} cannot load the version: {reason}")
            time.sleep(self._poll_s)
        raise EngineUnavailable(f"{self._name} was not ready in {timeout_s:g} s")

    def _get(self) -> dict[str, Any]:
        try:
            return self._services.get_namespaced_custom_object(_GROUP, _VERSION, self._namespace, _PLURAL, self._name)
        except ApiException as error:
            raise self._error(error) from error

    def _patch(self, predictor: dict[str, Any]) -> None:
        try:
            self._services.patch_namespaced_custom_object(
                _GROUP, _VERSION, self._namespace, _PLURAL, self._name, {"spec": {"predictor": predictor}}
            )
        except ApiException as error:
            raise self._error(error) from error

    def _error(self, error: ApiException) -> ModelNotFound | EngineUnavailable:
        if error.status == 404:
            return ModelNotFound(f"there is no InferenceService {self._name} in {self._namespace}")
        return EngineUnavailable(f"Kubernetes refused: {error.status} {error.reason}")
