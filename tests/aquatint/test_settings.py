import pytest

from aquatint.contract.errors import InvalidRequest
from aquatint.settings import ApiSettings, ServerSettings, StorageSettings, read_settings


def test_names_of_the_seed_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"IMAGE_OUTPUT_PATH": "/pictures", "AWS_S3_BUCKET": "bucket", "AWS_S3_ENDPOINT": "http://s3"}
    for name, value in {**variables, "PORT": "9", "PUBLIC_URL": "https://host/"}.items():
        monkeypatch.setenv(name, value)
    storage, api = read_settings(StorageSettings), read_settings(ApiSettings)
    assert (str(storage.path), storage.bucket, storage.endpoint_url) == tuple(variables.values())
    assert (api.port, api.base_url) == (9, "https://host")


def test_other_programs_variables_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """``PATH`` above all is not a folder for images."""
    before = read_settings(StorageSettings), read_settings(ApiSettings), read_settings(ServerSettings)
    fields = {*StorageSettings.model_fields, *ApiSettings.model_fields, *ServerSettings.model_fields}
    for name in fields - {"port", "public_url"}:
        monkeypatch.setenv(name.upper(), "set by somebody else")
    assert (read_settings(StorageSettings), read_settings(ApiSettings), read_settings(ServerSettings)) == before


def test_wrong_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUATINT_HTTP_PORT", "99999")
    with pytest.raises(InvalidRequest, match="settings: http_port: Input should be less than or equal to 65535"):
        read_settings(ServerSettings)


def test_a_secret_that_is_no_json_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUATINT_TOKENS", "s3cret")
    with pytest.raises(InvalidRequest, match=r'settings: .*"tokens".*JSON') as caught:
        read_settings(ApiSettings)
    assert "s3cret" not in str(caught.value)
