import { useCallback, useEffect, useState } from "react";
import { ApiError, getStatus, type Status } from "./api";

const READY_EVERY_MS = 15_000;
const WAITING_EVERY_MS = 2_000;

/** The server's state, polled more often while a part is not ready. */
export interface ServerStatus {
  status: Status | null;
  online: boolean;
  /** The server requires an access token. */
  locked: boolean;
  refresh: () => void;
}

export function useStatus(): ServerStatus {
  const [status, setStatus] = useState<Status | null>(null);
  const [online, setOnline] = useState(true);
  const [locked, setLocked] = useState(false);
  const [asked, setAsked] = useState(0);
  const refresh = useCallback(() => setAsked((count) => count + 1), []);

  useEffect(() => {
    let timer = 0;
    let left = false;
    const ask = async () => {
      let wait = WAITING_EVERY_MS;
      try {
        const next = await getStatus();
        if (left) return;
        setStatus(next);
        setOnline(true);
        setLocked(false);
        if (next.llm.ready && next.drawing.ready) wait = READY_EVERY_MS;
      } catch (error) {
        if (left) return;
        const known = error instanceof ApiError;
        setLocked(known && error.status === 401);
        setOnline(known && error.status !== 0);
      }
      timer = window.setTimeout(ask, wait);
    };
    void ask();
    window.addEventListener("online", refresh);
    window.addEventListener("offline", refresh);
    return () => {
      left = true;
      window.clearTimeout(timer);
      window.removeEventListener("online", refresh);
      window.removeEventListener("offline", refresh);
    };
  }, [asked, refresh]);

  return { status, online, locked, refresh };
}

/** The page's address: `#/`, `#/c/<conversation>` or `#/gallery`. */
export function useHash(): [string, (hash: string) => void] {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const onChange = () => setHash(location.hash);
    window.addEventListener("hashchange", onChange);
    return () => window.removeEventListener("hashchange", onChange);
  }, []);
  return [hash, (next) => void (location.hash = next)];
}

/** State kept in local storage. */
export function useStored<T>(key: string, initial: T): [T, (value: T) => void] {
  const [value, setValue] = useState<T>(() => {
    try {
      return JSON.parse(localStorage.getItem(key) ?? "") as T;
    } catch {
      return initial;
    }
  });
  const set = useCallback(
    (next: T) => {
      localStorage.setItem(key, JSON.stringify(next));
      setValue(next);
    },
    [key],
  );
  return [value, set];
}
