/** The parameters of a finished image. They come from an MCP server, so their types are checked here. */
import type { Image, ImageSettings } from "./api";

const text = (value: unknown) => (typeof value === "string" ? value : undefined);
const number = (value: unknown) => (typeof value === "number" ? value : undefined);

/** The settings that would generate the same image again, except for its seed. */
export function settingsOf({ parameters }: Image): ImageSettings {
  return {
    model: text(parameters.model),
    width: number(parameters.width),
    height: number(parameters.height),
    num_inference_steps: number(parameters.num_inference_steps),
    guidance_scale: number(parameters.guidance_scale),
    negative_prompt: text(parameters.negative_prompt),
  };
}
