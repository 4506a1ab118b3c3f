/** The backend's HTTP API; its shapes are those of `aquatint_chat/views.py` and `events.py`. */
import { EventSourceParserStream } from "eventsource-parser/stream";

export interface Picture {
  id: string;
  url: string;
  conversation_id: string;
  prompt: string;
  seed: number | null;
  parameters: ImageSettings & { prompt?: string };
}

export interface ImageSettings {
  model?: string;
  width?: number;
  height?: number;
  num_inference_steps?: number;
  guidance_scale?: number;
  seed?: number;
  negative_prompt?: string;
  num_images?: number;
}

export interface ToolCall {
  id: string;
  tool: string;
  arguments: Record<string, unknown>;
}

export interface Failure {
  code: string;
  message: string;
  retryable: boolean;
}

export interface Message {
  id: number;
  role: "user" | "assistant";
  content: string;
  status: "complete" | "stopped" | "failed";
  error: Failure | null;
  tool_calls: ToolCall[];
  usage: { prompt_tokens: number; completion_tokens: number; seconds: number } | null;
  created_at: string;
  images: Picture[];
}

export interface ConversationSummary {
  id: string;
  title: string;
  created_at: string;
  updated_at: string;
}

export interface Conversation extends ConversationSummary {
  messages: Message[];
}

export interface ImageModel {
  name: string;
  default_width: number;
  default_height: number;
  default_num_inference_steps: number;
  default_guidance_scale: number;
  pixel_unit: number;
  min_size: number;
  max_size: number;
}

export interface Status {
  llm: { ready: boolean; model: string | null; detail: string };
  drawing: { ready: boolean; detail: string; models: ImageModel[] };
}

export interface TurnRequest {
  content: string;
  conversation_id?: string;
  replace_message_id?: number;
  image: ImageSettings;
}

export type TurnEvent =
  | { event: "start"; conversation: ConversationSummary; message: Message }
  | { event: "token"; text: string }
  | { event: "tool_call"; id: string; tool: string; arguments: Record<string, unknown> }
  | { event: "progress"; id: string; progress: number; total: number | null; preview: string | null }
  | { event: "image"; id: string; image: Picture }
  | { event: "usage"; prompt_tokens: number; completion_tokens: number; seconds: number }
  | ({ event: "error" } & Failure)
  | { event: "done"; conversation: ConversationSummary; message: Message };

/** A failure in the words of the error table. */
export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

const TOKEN_KEY = "aquatint.token";

/** The access token, for servers that want one; it lives as long as the tab. */
export const accessToken = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (token: string) => sessionStorage.setItem(TOKEN_KEY, token),
};

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = accessToken.get();
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (init.body) headers.set("Content-Type", "application/json");
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, { ...init, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("Offline", "The server cannot be reached.", 0);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response: Response): Promise<ApiError> {
  const body = await response.json().catch(() => null);
  return new ApiError(
    body?.error?.code ?? "Internal",
    body?.error?.message ?? `The server answered with status ${response.status}.`,
    response.status,
  );
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await request(path, init)).json();
}

const query = (values: Record<string, string | number | null | undefined>) =>
  new URLSearchParams(
    Object.entries(values).flatMap(([key, value]) => (value == null || value === "" ? [] : [[key, String(value)]])),
  );

export const getStatus = () => json<Status>("/status");

export const listConversations = async (words = "") =>
  (await json<{ conversations: ConversationSummary[] }>(`/conversations?${query({ query: words })}`)).conversations;

export const getConversation = (id: string) => json<Conversation>(`/conversations/${encodeURIComponent(id)}`);

export const renameConversation = (id: string, title: string) =>
  json<ConversationSummary>(`/conversations/${id}`, { method: "PATCH", body: JSON.stringify({ title }) });

export const deleteConversation = (id: string) => request(`/conversations/${id}`, { method: "DELETE" });

export const exportConversation = async (id: string, format: "json" | "markdown") =>
  (await request(`/conversations/${id}/export?${query({ format })}`)).blob();

export const listPictures = (words: string, cursor?: number) =>
  json<{ images: Picture[]; next_cursor: number | null }>(`/images?${query({ query: words, cursor })}`);

export const deletePicture = (id: string) => request(`/images/${id}`, { method: "DELETE" });

/** The events of a turn. Aborting `signal` stops the language model and the denoiser. */
export async function* streamTurn(turn: TurnRequest, signal: AbortSignal): AsyncGenerator<TurnEvent> {
  const response = await request("/chat/completions", { method: "POST", body: JSON.stringify(turn), signal });
  const messages = response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
  const reader = messages.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      yield { event: next.value.event, ...JSON.parse(next.value.data) } as TurnEvent;
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError("Offline", "The connection was lost amid the answer.", 0);
  } finally {
    reader.releaseLock();
  }
}
