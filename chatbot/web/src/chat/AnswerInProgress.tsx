import { Alert, Progress, ProgressMeasureLocation, Spinner } from "@patternfly/react-core";
import type { Picture } from "../api";
import { Markdown } from "./Markdown";
import { Pictures } from "./Pictures";
import type { Answering, Drawing } from "./turns";

/** The answer while it is being given: words as they come, pictures as they grow. */
export function AnswerInProgress({ answering, onView }: { answering: Answering; onView: (picture: Picture) => void }) {
  const { text, drawings, error } = answering;
  return (
    <article className="message from-aquatint" aria-label="Aquatint" aria-busy="true" aria-live="off">
      {drawings.map((drawing) =>
        drawing.pictures.length > 0 ? (
          <Pictures key={drawing.id} pictures={drawing.pictures} onView={onView} />
        ) : (
          <Growing key={drawing.id} drawing={drawing} />
        ),
      )}
      <Markdown text={text} />
      {error && <Alert variant="danger" isInline title={error.message} />}
      {!text && drawings.length === 0 && !error && <Spinner size="md" aria-label="Aquatint is thinking" />}
    </article>
  );
}

function Growing({ drawing: { prompt, progress, total, preview } }: { drawing: Drawing }) {
  return (
    <figure className="growing">
      {preview ? <img src={preview} alt={`${prompt}, not finished`} data-testid="preview" /> : <div className="placeholder" />}
      <Progress
        aria-label={`Drawing ${prompt}`}
        value={total ? Math.round((100 * progress) / total) : 0}
        valueText={total ? `step ${progress} of ${total}` : "waiting"}
        label={total ? `step ${progress} of ${total}` : "waiting"}
        measureLocation={ProgressMeasureLocation.outside}
        size="sm"
      />
    </figure>
  );
}
