"""What Flask and Django offer beyond a protected view."""

from collections.abc import Iterator
from typing import Any

import django
import flask
import pytest
from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from tests.verify import forge
from token_server.verify.adapters.django import Protect as DjangoProtect
from token_server.verify.adapters.flask import Protect as FlaskProtect
from token_server.verify.adapters.flask import TokenRefused

GOOD = f"Bearer {forge.token()}"
HEADERS = {"Authorization": GOOD}

settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="tests", LOGGING_CONFIG=None
)
django.setup()

protect = DjangoProtect(forge.verifier())
authenticated = protect.middleware("orders:read")
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
OURS = f"{__name__}.authenticated"


@pytest.fixture
def our_middleware() -> Iterator[None]:
    with override_settings(MIDDLEWARE=[OURS]):
        yield


@pytest.fixture
def csrf_middleware() -> Iterator[None]:
    with override_settings(MIDDLEWARE=[CSRF]):
        yield


def open_view(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"client_id": request.claims.client_id})


async def open_async_view(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"client_id": request.claims.client_id})


def demanding_view(request: HttpRequest) -> JsonResponse:
    request.claims.require("orders:admin")
    raise AssertionError("unreachable")


def failing_view(_request: HttpRequest) -> JsonResponse:
    raise ZeroDivisionError


@protect()
def required(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


@protect(optional=True)
def optional(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


urlpatterns = [
    path("open", open_view),
    path("open-async", open_async_view),
    path("demanding", demanding_view),
    path("failing", failing_view),
    path("required", required),
    path("optional", optional),
]


@pytest.mark.usefixtures("our_middleware")
@pytest.mark.parametrize("url", ["/open", "/open-async"])
def test_django_middleware_protects_every_view(url: str) -> None:
    """Under WSGI; the views know nothing of it."""
    client = Client()
    assert client.get(url, headers=HEADERS).json() == {"client_id": "web-shop"}
    refused = client.get(url)
    assert (refused.status_code, refused["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.usefixtures("our_middleware")
@pytest.mark.parametrize("url", ["/open", "/open-async"])
async def test_django_middleware_protects_every_view_under_asgi(url: str) -> None:
    """It adapts to the server, so that Django puts no thread in between."""
    client = AsyncClient()
    answer = await client.get(url, headers=HEADERS)
    assert answer.json() == {"client_id": "web-shop"}
    assert (await client.get(url)).status_code == 401


@pytest.mark.usefixtures("our_middleware")
def test_django_middleware_answers_a_view_s_own_demand() -> None:
    """403 with its challenge; any other exception stays what it is."""
    refused = Client().get("/demanding", headers=HEADERS)
    assert refused.status_code == 403
    assert refused.json()["error"] == "insufficient_scope"
    assert refused["WWW-Authenticate"].endswith('scope="orders:admin"')
    with pytest.raises(ZeroDivisionError):
        Client().get("/failing", headers=HEADERS)


@pytest.mark.usefixtures("csrf_middleware")
def test_django_asks_no_csrf_token_where_a_bearer_token_is_required() -> None:
    """No browser adds one by itself, so there is nothing to forge."""
    assert Client(enforce_csrf_checks=True).post("/required", headers=HEADERS).status_code == 200


@pytest.mark.usefixtures("csrf_middleware")
def test_django_keeps_csrf_protection_where_the_token_is_optional() -> None:
    """Without a token the request may rest on a cookie, and that can be forged."""
    assert Client(enforce_csrf_checks=True).post("/optional").status_code == 403


def flask_app() -> flask.Flask:
    guard = FlaskProtect(forge.verifier())
    app = flask.Flask(__name__)

    @app.get("/async")
    @guard("orders:read")
    async def async_view() -> dict[str, str]:
        return {"client_id": flask.g.claims.client_id}

    @app.before_request
    @guard(optional=True)
    def everywhere() -> None:
        """A decorated function that answers nothing protects what comes after it."""

    return app


def test_flask_coroutine_view_is_protected() -> None:
    """Flask runs it, and we run before it."""
    client = flask_app().test_client()
    answer: Any = client.get("/async", headers=HEADERS)
    assert answer.json == {"client_id": "web-shop"}
    refused = client.get("/async")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert refused.mimetype == "application/json"


def test_flask_application_may_reword_a_refusal() -> None:
    """Its error handlers see an HTTPException, with all that was to be said."""
    app = flask_app()

    @app.errorhandler(TokenRefused)
    def reword(error: TokenRefused) -> Any:
        return "go away", error.code, dict(error.refusal.headers)

    refused = app.test_client().get("/async")
    assert (refused.status_code, refused.text) == (401, "go away")


def test_flask_protects_by_before_request() -> None:
    """For a whole application or blueprint, unknown paths included."""
    client = flask_app().test_client()
    assert client.get("/nowhere").status_code == 404
    bad = client.get("/nowhere", headers={"Authorization": "Bearer x"})
    assert bad.status_code == 401
    assert bad.json == {
        "error": "invalid_token",
        "error_description": (
            "The access token is malformed, expired, revoked or not meant for this service."
        ),
    }
