"""HTTP over any ``ImageGenerator``: OpenAI's images API, KServe V1, stored images, health and metrics.

FastAPI routers for any app to include; they know nothing about Triton, KServe or MCP.
"""

from aquatint.http.errors import install_error_handlers
from aquatint.http.files import image_files
from aquatint.http.health import health
from aquatint.http.images_api import images_api
from aquatint.http.predict import predict_v1
from aquatint.http.triton_http import triton_http

__all__ = ["health", "image_files", "images_api", "install_error_handlers", "predict_v1", "triton_http"]
