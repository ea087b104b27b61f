"""Django in one file. pip install token-server django uvicorn, then in this directory:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    uvicorn orders:app --port 8001          (or `orders:wsgi` under gunicorn)
"""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views import View

from token_server.verify import Verifier
from token_server.verify.adapters.django import Protect

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
)
protect = Protect(Verifier.from_environment())


class Orders(View):
    async def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"client_id": request.claims.client_id})


@protect(any_scope=["orders:write", "orders:admin"])
def add_order(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"added": "yes"})


@protect(optional=True)
async def greet(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"hello": request.claims.subject if request.claims else "stranger"})


@protect()
def read_order(request: HttpRequest, owner: str) -> JsonResponse:
    request.claims.require_that(lambda claims: claims.subject == owner)  # else 403
    return JsonResponse({"owner": owner})


urlpatterns = [
    path("orders", protect("orders:read")(Orders.as_view())),
    path("orders/new", add_order),
    path("orders/<str:owner>", read_order),
    path("greeting", greet),
]
app, wsgi = get_asgi_application(), get_wsgi_application()
