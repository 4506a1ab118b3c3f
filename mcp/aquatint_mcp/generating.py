"""The ``generate_image`` tool: generate with progress, store, answer with links, an image to look at and the facts."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

from fastmcp import Context
from fastmcp.tools.base import ToolResult
from mcp_types import (
    ContentBlock,
    ImageContent,
    ProgressNotification,
    ProgressNotificationParams,
    ResourceLink,
    TextContent,
)
from pydantic import BaseModel

from aquatint.contract.errors import EngineUnavailable
from aquatint.contract.generation import Generation, Progress
from aquatint.contract.image_generator import ImageGenerator
from aquatint.contract.request import GenerationRequest
from aquatint.images import ImageStore, StoredImage, convert

# The key under ``_meta`` of a progress notification: {"mimeType", "data" (base64), "step"}.
PREVIEW_META = "aquatint/preview"


class GeneratedImage(BaseModel):
    """One image of an answer. ``stored`` is ``local`` while the image store fails."""

    id: str
    url: str
    resource: str
    seed: int
    format: str
    size: int
    stored: str
    expires_at: float | None = None


class GenerationResult(BaseModel):
    """The structured answer of ``generate_image``."""

    images: list[GeneratedImage]
    parameters: dict[str, Any]
    timings: dict[str, float]
    dropped_tokens: int


class ImageTool:
    """Generates and stores images. ``inline_bytes`` limits the image inside the answer; 0 leaves it out."""

    def __init__(self, engine: ImageGenerator, store: ImageStore, inline_bytes: int) -> None:
        self._engine = engine
        self._store = store
        self._inline_bytes = inline_bytes

    async def __call__(self, request: GenerationRequest, ctx: Context, owner: str) -> ToolResult:
        """Generate and store. Cancelling the call closes the stream, which stops the denoiser at its next step."""
        generation = await self._generate(request, ctx)
        images = []
        for image in generation.images:
            parameters = generation.parameters.of_one_image()
            images.append(await self._store.put(image.png, "png", parameters=parameters, seed=image.seed, owner=owner))
        return self._result(generation, images)

    async def _generate(self, request: GenerationRequest, ctx: Context) -> Generation:
        async with contextlib.aclosing(self._engine.stream(request)) as events:
            async for event in events:
                if isinstance(event, Generation):
                    return event
                await _report(ctx, event)
        raise EngineUnavailable("the server ended the stream without an image")

    def _result(self, generation: Generation, images: list[StoredImage]) -> ToolResult:
        described = [self._describe(image) for image in images]
        result = GenerationResult(
            images=described,
            parameters=generation.parameters.model_dump(exclude={"preview_every"}),
            timings=generation.timings,
            dropped_tokens=generation.dropped_tokens,
        )
        content: list[ContentBlock] = [TextContent(type="text", text=_text(generation, described))]
        for image, stored in zip(generation.images, images):
            if self._inline_bytes:
                content.append(inline_image(image.png, self._inline_bytes))
            content.append(resource_link(stored))
        return ToolResult(content=content, structured_content=result.model_dump())

    def _describe(self, image: StoredImage) -> GeneratedImage:
        return GeneratedImage(
            id=image.id,
            url=self._store.url(image),
            resource=f"image://{image.id}",
            seed=image.seed,
            format=image.format,
            size=image.size,
            stored="local" if image.local else "store",
            expires_at=image.expires_at,
        )


def inline_image(png: bytes, max_bytes: int) -> ImageContent:
    """Make the image that the model looks at: the file itself if it is small enough, else a smaller JPEG."""
    data, image_format = convert.fit(png, max_bytes)
    return ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=f"image/{image_format}")


def resource_link(image: StoredImage) -> ResourceLink:
    """Link to the stored image as an MCP resource."""
    return ResourceLink(
        type="resource_link",
        uri=f"image://{image.id}",
        name=f"{image.id}.{image.format}",
        description=str(image.parameters.get("prompt", "")),
        mime_type=image.media_type,
        size=image.size,
    )


def _text(generation: Generation, images: list[GeneratedImage]) -> str:
    lines = [f"Generated {generation.parameters.prompt!r}:"]
    lines += [f"{image.url} (seed {image.seed}{_where(image)})" for image in images]
    if generation.dropped_tokens:
        lines.append(f"The prompt was {generation.dropped_tokens} tokens too long and was truncated.")
    return "\n".join(lines)


def _where(image: GeneratedImage) -> str:
    return "" if image.stored == "store" else ", kept on this server because the image store failed"


async def _report(ctx: Context, step: Progress) -> None:
    """Report a step; its preview travels in the notification's ``_meta``, which clients may ignore."""
    message = f"step {step.step} of {step.total_steps}"
    request = ctx.request_context
    token = (request.meta or {}).get("progressToken") if request is not None else None
    if token is None or not step.previews:
        await ctx.report_progress(step.step, step.total_steps, message)
        return
    preview = {"mimeType": "image/png", "data": base64.b64encode(step.previews[0].png).decode(), "step": step.step}
    await ctx.send_notification(
        ProgressNotification(
            params=ProgressNotificationParams(
                progress_token=token,
                progress=step.step,
                total=step.total_steps,
                message=message,
                _meta={PREVIEW_META: preview},
            )
        )
    )
