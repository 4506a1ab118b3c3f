import {
  Button,
  DrawerActions,
  DrawerCloseButton,
  DrawerHead,
  DrawerPanelBody,
  DrawerPanelContent,
  Form,
  FormGroup,
  FormHelperText,
  FormSelect,
  FormSelectOption,
  HelperText,
  HelperTextItem,
  TextArea,
  TextInput,
  Title,
} from "@patternfly/react-core";
import type { ImageSettings, ModelInfo, Status } from "./api";
import { LIMITS, type Limits } from "./limits";

interface SettingsProps {
  value: ImageSettings;
  models: ModelInfo[];
  llm: Status["llm"] | null;
  onChange: (settings: ImageSettings) => void;
  onClose: () => void;
}

/** The settings of the next images; an empty field means the model's own. */
export function SettingsPanel({ value, models, llm, onChange, onClose }: SettingsProps) {
  const model = models.find((each) => each.name === value.model) ?? models[0];
  const set = (change: Partial<ImageSettings>) => onChange({ ...value, ...change });
  return (
    <DrawerPanelContent defaultSize="340px" minSize="280px">
      <DrawerHead>
        <Title headingLevel="h2" size="lg">
          Settings
        </Title>
        <DrawerActions>
          <DrawerCloseButton onClick={onClose} aria-label="Close settings" />
        </DrawerActions>
      </DrawerHead>
      <DrawerPanelBody>
        <Form>
          <FormGroup label="Model" fieldId="model">
            <FormSelect id="model" value={value.model ?? ""} onChange={(_, name) => set({ model: name || undefined })}>
              <FormSelectOption value="" label={`the server's own${models[0] ? ` (${models[0].name})` : ""}`} />
              {models.map((each) => (
                <FormSelectOption key={each.name} value={each.name} label={each.name} />
              ))}
            </FormSelect>
          </FormGroup>
          <FormGroup label="Size" fieldId="size">
            <FormSelect id="size" value={sizeOf(value)} onChange={(_, size) => set(parseSize(size))}>
              <FormSelectOption value="" label={model ? `${model.default_width} × ${model.default_height}` : "the model's own"} />
              {(model ? sizes(model) : []).map((size) => (
                <FormSelectOption key={size} value={size} label={size.replace("x", " × ")} />
              ))}
            </FormSelect>
          </FormGroup>
          <NumberField id="steps" label="Steps" value={value.num_inference_steps} limits={LIMITS.num_inference_steps} own={model?.default_num_inference_steps} onChange={(num_inference_steps) => set({ num_inference_steps })} />
          <NumberField id="guidance" label="Guidance" value={value.guidance_scale} limits={LIMITS.guidance_scale} step={0.5} own={model?.default_guidance_scale} help="How closely to follow the prompt; 1 or less: not guided, twice as fast" onChange={(guidance_scale) => set({ guidance_scale })} />
          <NumberField id="seed" label="Seed" value={value.seed} limits={LIMITS.seed} help="Same seed and settings, same picture; empty: a new one each time" onChange={(seed) => set({ seed })} />
          <FormGroup label="Negative prompt" fieldId="negative">
            <TextArea id="negative" value={value.negative_prompt ?? ""} onChange={(_, text) => set({ negative_prompt: text || undefined })} resizeOrientation="vertical" placeholder="what should not be seen" />
          </FormGroup>
          <NumberField id="count" label="Number of images" value={value.num_images} limits={LIMITS.num_images} own={1} onChange={(num_images) => set({ num_images })} />
          <Button variant="secondary" onClick={() => onChange({})}>
            Reset
          </Button>
          <HelperText>
            <HelperTextItem>
              Language model: {llm?.model ?? "none yet"}. {llm?.detail}
            </HelperTextItem>
          </HelperText>
        </Form>
      </DrawerPanelBody>
    </DrawerPanelContent>
  );
}

interface NumberProps {
  id: string;
  label: string;
  value: number | null | undefined;
  limits: Limits;
  step?: number;
  /** The model's own, shown while the field is empty. */
  own?: number;
  help?: string;
  onChange: (value: number | undefined) => void;
}

function NumberField({ id, label, value, limits: { min, max }, step = 1, own, help, onChange }: NumberProps) {
  const isWrong = value != null && (value < min || value > max || (step === 1 && !Number.isInteger(value)));
  const words = isWrong ? `from ${min} to ${max}${step === 1 ? ", whole" : ""}` : help;
  return (
    <FormGroup label={label} fieldId={id}>
      <TextInput
        id={id}
        type="number"
        inputMode="decimal"
        min={min}
        max={max}
        step={step}
        value={value ?? ""}
        placeholder={own?.toString()}
        validated={isWrong ? "error" : "default"}
        aria-describedby={words ? `${id}-help` : undefined}
        onChange={(_, text) => onChange(text === "" ? undefined : Number(text))}
      />
      {words && (
        <FormHelperText>
          <HelperText id={`${id}-help`}>
            <HelperTextItem variant={isWrong ? "error" : "default"}>{words}</HelperTextItem>
          </HelperText>
        </FormHelperText>
      )}
    </FormGroup>
  );
}

const sizeOf = ({ width, height }: ImageSettings) => (width && height ? `${width}x${height}` : "");

function parseSize(size: string): Partial<ImageSettings> {
  const [width, height] = size.split("x").map(Number);
  return width && height ? { width, height } : { width: undefined, height: undefined };
}

/** Squares and two other shapes around the model's own size, all of which it can generate. */
function sizes({ default_width, default_height, pixel_unit, min_size, max_size }: ModelInfo): string[] {
  const fit = (length: number) => Math.min(max_size, Math.max(min_size, Math.round(length / pixel_unit) * pixel_unit));
  const shapes: [number, number][] = [
    [0.5, 0.5],
    [0.75, 0.75],
    [1.25, 0.75],
    [0.75, 1.25],
    [1.5, 1.5],
    [2, 2],
  ];
  const found = shapes.map(([x, y]) => `${fit(default_width * x)}x${fit(default_height * y)}`);
  return [...new Set(found)].filter((size) => size !== `${default_width}x${default_height}`);
}
