import type { Picture } from "../api";

export function Pictures({ pictures, onView }: { pictures: Picture[]; onView: (picture: Picture) => void }) {
  if (pictures.length === 0) return null;
  return (
    <div className="drawn">
      {pictures.map((picture) => (
        <button key={picture.id} type="button" className="thumbnail" aria-label={`Look at ${picture.prompt}`} onClick={() => onView(picture)}>
          <img src={picture.url} alt={picture.prompt} />
        </button>
      ))}
    </div>
  );
}
