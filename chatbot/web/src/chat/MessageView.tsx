import { Alert, Button } from "@patternfly/react-core";
import { CopyIcon, PencilAltIcon, RedoIcon } from "@patternfly/react-icons";
import { useState } from "react";
import type { Image, Message } from "../api";
import { Markdown } from "./Markdown";
import { Images } from "./Images";

interface MessageProps {
  message: Message;
  isBusy: boolean;
  onView: (image: Image) => void;
  onEdit: (content: string) => void;
  onRetry: () => void;
}

export function MessageView({ message, isBusy, onView, onEdit, onRetry }: MessageProps) {
  const [edited, setEdited] = useState<string | null>(null);
  if (message.role === "user") {
    return (
      <article className="message from-user" aria-label="You">
        {edited === null ? (
          <>
            <p>{message.content}</p>
            <div className="actions">
              <Button variant="plain" size="sm" icon={<PencilAltIcon />} aria-label="Edit and send again" isDisabled={isBusy} onClick={() => setEdited(message.content)} />
            </div>
          </>
        ) : (
          <EditForm
            text={edited}
            onText={setEdited}
            onCancel={() => setEdited(null)}
            onSend={() => {
              setEdited(null);
              onEdit(edited.trim());
            }}
          />
        )}
      </article>
    );
  }
  return (
    <article className="message from-aquatint" aria-label="Aquatint">
      <Images images={message.images} onView={onView} />
      <Markdown text={message.content} />
      {message.status === "stopped" && <p className="note">Stopped.</p>}
      {message.error && (
        <Alert
          variant="danger"
          isInline
          title={message.error.message}
          actionLinks={
            message.error.retryable ? (
              <Button variant="link" isInline isDisabled={isBusy} onClick={onRetry}>
                Try again
              </Button>
            ) : undefined
          }
        />
      )}
      <div className="actions">
        <Button variant="plain" size="sm" icon={<RedoIcon />} aria-label="Answer again" isDisabled={isBusy} onClick={onRetry} />
        <Button variant="plain" size="sm" icon={<CopyIcon />} aria-label="Copy the text" onClick={() => void navigator.clipboard.writeText(message.content)} />
      </div>
    </article>
  );
}

interface EditProps {
  text: string;
  onText: (text: string) => void;
  onCancel: () => void;
  onSend: () => void;
}

function EditForm({ text, onText, onCancel, onSend }: EditProps) {
  return (
    <form
      className="edit"
      onSubmit={(event) => {
        event.preventDefault();
        onSend();
      }}
    >
      <textarea aria-label="Edited message" value={text} rows={3} autoFocus onChange={(event) => onText(event.target.value)} />
      <Button type="submit" size="sm" isDisabled={!text.trim()}>
        Send
      </Button>
      <Button variant="link" size="sm" onClick={onCancel}>
        Cancel
      </Button>
    </form>
  );
}
