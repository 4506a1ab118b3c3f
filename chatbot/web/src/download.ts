/** Save a file through the browser. */
export function download(data: Blob, name: string): void {
  const url = URL.createObjectURL(data);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  URL.revokeObjectURL(url);
}

export async function downloadImage(url: string, name: string): Promise<void> {
  download(await (await fetch(url)).blob(), name);
}
