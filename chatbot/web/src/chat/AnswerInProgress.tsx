import { Alert, Progress, ProgressMeasureLocation, Spinner } from "@patternfly/react-core";
import type { Image } from "../api";
import { Markdown } from "./Markdown";
import { Images } from "./Images";
import type { Answering, Generation } from "./turns";

/** The answer while it arrives: its text so far, and its images as they grow. */
export function AnswerInProgress({ answering, onView }: { answering: Answering; onView: (image: Image) => void }) {
  const { text, generations, error } = answering;
  return (
    <article className="message from-aquatint" aria-label="Aquatint" aria-busy="true" aria-live="off">
      {generations.map((generation) =>
        generation.images.length > 0 ? (
          <Images key={generation.id} images={generation.images} onView={onView} />
        ) : (
          <Growing key={generation.id} generation={generation} />
        ),
      )}
      <Markdown text={text} />
      {error && <Alert variant="danger" isInline title={error.message} />}
      {!text && generations.length === 0 && !error && <Spinner size="md" aria-label="Aquatint is thinking" />}
    </article>
  );
}

function Growing({ generation: { prompt, progress, total, preview } }: { generation: Generation }) {
  return (
    <figure className="growing">
      {preview ? <img src={preview} alt={`${prompt}, not finished`} data-testid="preview" /> : <div className="placeholder" />}
      <Progress
        aria-label={`Generating ${prompt}`}
        value={total ? Math.round((100 * progress) / total) : 0}
        valueText={total ? `step ${progress} of ${total}` : "waiting"}
        label={total ? `step ${progress} of ${total}` : "waiting"}
        measureLocation={ProgressMeasureLocation.outside}
        size="sm"
      />
    </figure>
  );
}
