/** The backend's HTTP API. Its types are generated from its OpenAPI document: `npm run types`. */
import { EventSourceParserStream } from "eventsource-parser/stream";
import type { components } from "./schema";

type Schemas = components["schemas"];

export type Conversation = Schemas["Conversation"];
export type ConversationSummary = Schemas["ConversationSummary"];
export type Failure = Schemas["Failure"];
export type Image = Schemas["Image"];
export type ImageSettings = Schemas["ImageSettings"];
export type Message = Schemas["Message"];
export type ModelInfo = Schemas["ModelInfo"];
export type Status = Schemas["Status"];
export type TurnEvent = Schemas["TurnEvent"];
export type TurnRequest = Schemas["TurnRequest"];

/** A failed request; `code` is the error's name in the error table. */
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

/** The access token, for servers that require one; it lives as long as the tab. */
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
  const body: Partial<Schemas["ErrorResponse"]> | null = await response.json().catch(() => null);
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
  (await json<Schemas["ConversationList"]>(`/conversations?${query({ query: words })}`)).conversations;

export const getConversation = (id: string) => json<Conversation>(`/conversations/${encodeURIComponent(id)}`);

export const renameConversation = (id: string, title: string) =>
  json<ConversationSummary>(`/conversations/${id}`, { method: "PATCH", body: JSON.stringify({ title } satisfies Schemas["Title"]) });

export const deleteConversation = (id: string) => request(`/conversations/${id}`, { method: "DELETE" });

export const exportConversation = async (id: string, format: "json" | "markdown") =>
  (await request(`/conversations/${id}/export?${query({ format })}`)).blob();

export const listImages = (words: string, cursor?: number) =>
  json<Schemas["ImagePage"]>(`/images?${query({ query: words, cursor })}`);

export const deleteImage = (id: string) => request(`/images/${id}`, { method: "DELETE" });

/** The events of a turn. Aborting `signal` stops the language model and the denoiser. */
export async function* streamTurn(turn: TurnRequest, signal: AbortSignal): AsyncGenerator<TurnEvent> {
  const response = await request("/chat/completions", { method: "POST", body: JSON.stringify(turn), signal });
  const messages = response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
  const reader = messages.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      yield { event: next.value.event, data: JSON.parse(next.value.data) } as TurnEvent;
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError("Offline", "The connection was lost during the answer.", 0);
  } finally {
    reader.releaseLock();
  }
}
