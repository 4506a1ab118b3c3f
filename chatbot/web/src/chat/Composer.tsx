import { Button, Label } from "@patternfly/react-core";
import { PaperPlaneIcon, StopIcon } from "@patternfly/react-icons";
import { useEffect, useRef } from "react";
import type { ImageSettings } from "../api";

/** The text typed so far, and settings for this message only. */
export interface Draft {
  text: string;
  once: ImageSettings;
}

interface ComposerProps {
  draft: Draft;
  isBusy: boolean;
  isOffline: boolean;
  onDraft: (draft: Draft) => void;
  onSend: (content: string) => void;
  onStop: () => void;
}

export function Composer({ draft, isBusy, isOffline, onDraft, onSend, onStop }: ComposerProps) {
  const field = useRef<HTMLTextAreaElement>(null);
  const { seed } = draft.once;
  useEffect(() => {
    field.current?.focus();
  }, [draft.once]);

  const submit = () => {
    if (draft.text.trim() && !isBusy && !isOffline) onSend(draft.text.trim());
  };
  const onKeyDown = (event: React.KeyboardEvent) => {
    // Enter also ends the composition of a character in an input method.
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    submit();
  };

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {seed != null && (
        <Label color="blue" onClose={() => onDraft({ ...draft, once: {} })} closeBtnAriaLabel="Forget the seed">
          Seed {seed}
        </Label>
      )}
      <div className="composer-row">
        <textarea
          ref={field}
          aria-label="Message"
          placeholder="Draw a fox on a blue background"
          rows={Math.min(8, draft.text.split("\n").length)}
          value={draft.text}
          maxLength={32000}
          onChange={(event) => onDraft({ ...draft, text: event.target.value })}
          onKeyDown={onKeyDown}
        />
        {isBusy ? (
          <Button variant="secondary" icon={<StopIcon />} aria-label="Stop" onClick={onStop} />
        ) : (
          <Button type="submit" icon={<PaperPlaneIcon />} aria-label="Send" isDisabled={!draft.text.trim() || isOffline} />
        )}
      </div>
    </form>
  );
}
