"""Tools, resources and prompts of the MCP server."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib import metadata
from typing import Annotated, Any, ParamSpec, TypeVar

import mcp_types
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ResourceError, ToolError
from fastmcp.exceptions import ValidationError as ArgumentsError
from fastmcp.resources import ResourceContent, ResourceResult
from fastmcp.server.auth import AccessToken, TokenVerifier
from fastmcp.server.dependencies import get_access_token
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools.base import ToolResult
from fastmcp.utilities.tasks import TaskConfig
from fastmcp_tasks import TasksExtension
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field, ValidationError

from aquatint.contract import errors
from aquatint.contract import request as requests
from aquatint.contract.errors import AquatintError
from aquatint.contract.fields import parameters, take_fields
from aquatint.contract.image_generator import ImageGenerator, find_model
from aquatint.contract.model_info import ModelInfo
from aquatint.http.auth import ADMIN_SCOPE, LOCAL_CALLER, Authenticate, Caller, RateLimiter
from aquatint.http.files import ImageDescription, ImageListing, describe
from aquatint.images import ImageStore
from aquatint_mcp.generating import GenerationResult, ImageTool, inline_image, resource_link

P = ParamSpec("P")
R = TypeVar("R")

_INSTRUCTIONS = (
    "Generates images with Stable Diffusion 3.5 on NVIDIA Triton. Call generate_image with a description of what "
    "should be seen. The same seed and parameters give the same image; to vary it keep the seed and change the prompt. "
    "list_models gives the sizes and defaults of each model. Show the user the url or the image of the answer."
)
_POLL = timedelta(seconds=1)
_GENERATES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_DELETES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

ImageId = Annotated[str, Field(description="The id that generate_image or list_images gave.")]


class ModelListing(BaseModel):
    """The answer of ``list_models``; the first one is the default."""

    models: list[ModelInfo]


def build_server(
    engine: ImageGenerator,
    store: ImageStore,
    *,
    inline_bytes: int = 256 << 10,
    preview_every: int = 4,
    authenticate: Authenticate | None = None,
    limiter: RateLimiter | None = None,
) -> FastMCP:
    """Build the MCP server over an image generator and an image store.

    With ``authenticate``, only callers that it accepts may connect; ``limiter`` counts calls of ``generate_image``.
    """
    server: FastMCP = FastMCP(
        "Aquatint",
        instructions=_INSTRUCTIONS,
        version=metadata.version("aquatint"),
        auth=_Verifier(authenticate) if authenticate is not None else None,
        middleware=[_OwnErrors()],
        mask_error_details=True,
    )
    server.add_extension(TasksExtension())
    _add_generation(
        server, engine, ImageTool(engine, store, inline_bytes), preview_every=preview_every, limiter=limiter
    )
    _add_gallery(server, store, inline_bytes)
    _add_prompts(server)
    return server


class _Verifier(TokenVerifier):
    """Our check of bearer tokens behind FastMCP's interface; FastMCP answers 401 itself."""

    def __init__(self, authenticate: Authenticate) -> None:
        super().__init__()
        self._authenticate = authenticate

    async def verify_token(self, token: str) -> AccessToken | None:
        caller = await self._authenticate(token)
        if caller is None:
            return None
        scopes = [ADMIN_SCOPE] if caller.is_admin else []
        return AccessToken(token=token, client_id=caller.name, subject=caller.name, scopes=scopes)


def _caller() -> Caller:
    token = get_access_token()
    return LOCAL_CALLER if token is None else Caller(token.client_id, ADMIN_SCOPE in token.scopes)


class _OwnErrors(Middleware):
    """Reports arguments that do not fit a tool's schema as errors of the error table, not as pydantic's."""

    async def on_call_tool(
        self,
        context: MiddlewareContext[mcp_types.CallToolRequestParams],
        call_next: CallNext[mcp_types.CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        try:
            return await call_next(context)
        except ArgumentsError as error:
            cause = error.__cause__
            if not isinstance(cause, ValidationError):
                raise
            raise ToolError(errors.to_wire(errors.from_validation(cause))) from None


def _tool_errors(tool: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Turn failures of a tool into MCP errors whose text is ``Name: message``."""

    @functools.wraps(tool)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await tool(*args, **kwargs)
        # The boundary of the server: nothing unexpected may reach the client.
        except Exception as error:
            raise ToolError(errors.to_wire(errors.internal(error))) from None

    return wrapped


def _add_generation(
    server: FastMCP,
    engine: ImageGenerator,
    image_tool: ImageTool,
    *,
    preview_every: int,
    limiter: RateLimiter | None,
) -> None:
    async def generate_image(ctx: Context, **fields: Any) -> ToolResult:
        """Generate images from a description. Answers with the image, its url, its seed and all parameters."""
        caller = _caller()
        if limiter is not None:
            await limiter(caller)
        info = await find_model(engine, fields.get("model"))
        steps = fields.get("num_inference_steps") or info.default_num_inference_steps
        fields |= {"model": info.name, "preview_every": min(preview_every, steps)}
        return await image_tool(requests.parse(fields), ctx, caller.name)

    # How often previews come is a setting of this server.
    take_fields(generate_image, parameters(exclude=("preview_every",)))
    server.tool(
        _tool_errors(generate_image),
        annotations=_GENERATES,
        output_schema=GenerationResult.model_json_schema(),
        task=TaskConfig(mode="optional", poll_interval=_POLL),
    )

    @server.tool(annotations=_READS)
    @_tool_errors
    async def list_models() -> ModelListing:
        """List the models that can generate images, with their sizes and defaults."""
        return ModelListing(models=await engine.models())


def _add_gallery(server: FastMCP, store: ImageStore, inline_bytes: int) -> None:
    @server.tool(annotations=_READS)
    @_tool_errors
    async def list_images(
        limit: Annotated[int, Field(ge=1, le=200)] = 20,
        cursor: Annotated[str | None, Field(description="next_cursor of the previous page.")] = None,
        query: Annotated[str, Field(description="Words of the prompt.")] = "",
    ) -> ImageListing:
        """List your stored images, newest first."""
        page = await store.page(_caller().sees, limit=limit, cursor=cursor, query=query)
        return ImageListing(images=[describe(store, image) for image in page.images], next_cursor=page.next_cursor)

    @server.tool(annotations=_READS, output_schema=ImageDescription.model_json_schema())
    @_tool_errors
    async def get_image(image_id: ImageId) -> ToolResult:
        """Fetch a stored image and its parameters."""
        image, data = await store.get(image_id)
        content: list[mcp_types.ContentBlock] = [resource_link(image)]
        if inline_bytes:
            content.insert(0, inline_image(data, inline_bytes))
        return ToolResult(content=content, structured_content=describe(store, image).model_dump())

    @server.tool(annotations=_DELETES)
    @_tool_errors
    async def delete_image(image_id: ImageId) -> dict[str, str]:
        """Delete one of your images for good."""
        await store.delete(image_id, _caller().sees)
        return {"deleted": image_id}

    @server.resource("image://{image_id}", mime_type="image/png")
    async def image(image_id: str) -> ResourceResult:
        """The bytes of a stored image."""
        try:
            stored, data = await store.get(image_id)
        except AquatintError as error:
            raise ResourceError(errors.to_wire(error)) from None
        return ResourceResult([ResourceContent(data, mime_type=stored.media_type)])

    @server.resource("gallery://images", mime_type="application/json")
    async def gallery() -> dict[str, Any]:
        """Your newest images."""
        page = await store.page(_caller().sees)
        return {"images": [describe(store, image).model_dump() for image in page.images]}


def _add_prompts(server: FastMCP) -> None:
    @server.prompt(name="draw")
    def one_subject(subject: str, style: str = "flat", background: str = "blue") -> str:
        """Generate one subject in a plain style, in words that the bundled mini model knows."""
        return f"Call generate_image with the prompt: a {style} emoji of a {subject} on a {background} background"

    @server.prompt
    def variations(image_id: str, change: str) -> str:
        """Keep the composition of an image and change one thing."""
        return (
            f"Call get_image for {image_id} and take its prompt, seed and size. Then call generate_image with the same "
            f"seed and size and the prompt changed in this one respect: {change}. Show both images."
        )

    @server.prompt
    def explore(idea: str, count: int = 4) -> str:
        """Turn a vague idea into several images to choose from."""
        return (
            f"Write {count} short, concrete descriptions of images for this idea: {idea}. Name subject, style, "
            f"colours and background in each. Call generate_image once for each with different seeds, show all "
            f"images with their seeds, and ask which one to develop."
        )
