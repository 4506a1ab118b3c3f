/** The limits of the image settings, from the API's OpenAPI document. */
import { components } from "./openapi.json";

export interface Limits {
  min: number;
  max: number;
}

const { num_images, num_inference_steps, guidance_scale } = components.schemas.ImageSettings.properties;

export const LIMITS = {
  num_images: limits(num_images),
  num_inference_steps: limits(num_inference_steps),
  guidance_scale: limits(guidance_scale),
  // The API takes larger seeds, which a JavaScript number cannot hold exactly.
  seed: { min: 0, max: Number.MAX_SAFE_INTEGER },
};

function limits({ anyOf }: { anyOf: { minimum?: number; maximum?: number }[] }): Limits {
  const bounded = anyOf.find((option) => option.minimum !== undefined);
  return { min: bounded?.minimum ?? 0, max: bounded?.maximum ?? Number.MAX_SAFE_INTEGER };
}
