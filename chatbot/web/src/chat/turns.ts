/** What a conversation looks like while a turn runs: a pure function of its events. */
import type { Conversation, Failure, Message, Picture, TurnEvent } from "../api";

/** A picture that is being drawn. */
export interface Drawing {
  id: string;
  prompt: string;
  progress: number;
  total: number | null;
  preview: string | null;
  pictures: Picture[];
}

/** The answer so far. */
export interface Answering {
  text: string;
  drawings: Drawing[];
  error: Failure | null;
}

export interface ChatState {
  id: string | null;
  title: string;
  messages: Message[];
  answering: Answering | null;
}

export const EMPTY: ChatState = { id: null, title: "", messages: [], answering: null };

export type ChatAction =
  | { type: "open"; conversation: Conversation | null }
  | { type: "asked"; content: string; replace?: number }
  | { type: "event"; event: TurnEvent }
  | { type: "ended" }
  | { type: "failed"; failure: Failure };

const NOBODY_YET = -1;

export function chatReducer(state: ChatState, action: ChatAction): ChatState {
  switch (action.type) {
    case "open":
      return action.conversation ? { ...EMPTY, ...pick(action.conversation) } : EMPTY;
    case "asked":
      return {
        ...state,
        messages: [...before(state.messages, action.replace), userMessage(action.content)],
        answering: { text: "", drawings: [], error: null },
      };
    case "event":
      return onEvent(state, action.event);
    case "ended":
      return state.answering ? { ...state, messages: [...state.messages, ...halfSaid(state.answering)], answering: null } : state;
    case "failed":
      return state.answering ? { ...state, answering: { ...state.answering, error: action.failure } } : state;
  }
}

const pick = ({ id, title, messages }: Conversation) => ({ id, title, messages });

const before = (messages: Message[], id?: number) =>
  id === undefined ? messages : messages.slice(0, Math.max(0, messages.findIndex((message) => message.id === id)));

const blank = { status: "complete", error: null, tool_calls: [], usage: null, created_at: "", images: [] } as const;

const userMessage = (content: string): Message => ({ ...blank, id: NOBODY_YET, role: "user", content, tool_calls: [], images: [] });

/** What stays to be seen of an answer that was stopped or broke off, until the stored one is read. */
function halfSaid(answering: Answering): Message[] {
  const { text, error, drawings } = answering;
  const images = drawings.flatMap((drawing) => drawing.pictures);
  return [
    { ...blank, id: NOBODY_YET - 1, role: "assistant", content: text, status: error ? "failed" : "stopped", error, tool_calls: [], images },
  ];
}

function onEvent(state: ChatState, event: TurnEvent): ChatState {
  if (event.event === "start") {
    const { id, title } = event.conversation;
    return { ...state, id, title, messages: [...state.messages.slice(0, -1), event.message] };
  }
  if (event.event === "done") {
    return { ...state, title: event.conversation.title, messages: [...state.messages, event.message], answering: null };
  }
  return state.answering ? { ...state, answering: grown(state.answering, event) } : state;
}

function grown(answering: Answering, event: TurnEvent): Answering {
  switch (event.event) {
    case "token":
      return { ...answering, text: answering.text + event.text };
    case "tool_call": {
      const prompt = String(event.arguments.prompt ?? event.tool);
      const drawing = { id: event.id, prompt, progress: 0, total: null, preview: null, pictures: [] };
      return { ...answering, drawings: [...answering.drawings, drawing] };
    }
    case "progress":
      return onDrawing(answering, event.id, (drawing) => ({
        ...drawing,
        progress: event.progress,
        total: event.total,
        preview: event.preview ?? drawing.preview,
      }));
    case "image":
      return onDrawing(answering, event.id, (drawing) => ({ ...drawing, pictures: [...drawing.pictures, event.image] }));
    case "error": {
      const { code, message, retryable } = event;
      return { ...answering, error: { code, message, retryable } };
    }
    default:
      return answering;
  }
}

const onDrawing = (answering: Answering, id: string, change: (drawing: Drawing) => Drawing): Answering => ({
  ...answering,
  drawings: answering.drawings.map((drawing) => (drawing.id === id ? change(drawing) : drawing)),
});
