import {
  Alert,
  Button,
  Drawer,
  DrawerContent,
  DrawerContentBody,
  Label,
  Masthead,
  MastheadBrand,
  MastheadContent,
  MastheadMain,
  MastheadToggle,
  Page,
  PageSidebar,
  PageSidebarBody,
  PageToggleButton,
  Toolbar,
  ToolbarContent,
  ToolbarGroup,
  ToolbarItem,
} from "@patternfly/react-core";
import { CogIcon, ImagesIcon } from "@patternfly/react-icons";
import { useCallback, useEffect, useState } from "react";
import { deleteImage, type Image, type ImageSettings, type Status } from "./api";
import { ChatView } from "./chat/ChatView";
import { useChat } from "./chat/useChat";
import { Gallery } from "./Gallery";
import { useHash, useStatus, useStored } from "./hooks";
import { ImageViewer } from "./ImageViewer";
import { settingsOf } from "./parameters";
import { SettingsPanel } from "./SettingsPanel";
import { Sidebar } from "./Sidebar";
import { ThemeSwitch } from "./ThemeSwitch";
import { TokenPrompt } from "./TokenPrompt";

const GALLERY = "#/gallery";
const WIDE = matchMedia("(min-width: 75rem)");
const CONVERSATION = /^#\/c\/([0-9a-f]+)$/;

export function App() {
  const server = useStatus();
  const [hash, go] = useHash();
  const [listVersion, setListVersion] = useState(0);
  const [deletions, setDeletions] = useState(0);
  const [settings, setSettings] = useStored<ImageSettings>("aquatint.image", {});
  const [showsSettings, setShowsSettings] = useState(false);
  const [showsList, setShowsList] = useState(() => WIDE.matches);
  const [viewed, setViewed] = useState<Image | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [draft, setDraft] = useState({ text: "", once: {} as ImageSettings });

  const onChange = useCallback((id: string) => {
    history.replaceState(null, "", `#/c/${id}`);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
    setListVersion((version) => version + 1);
  }, []);
  const { state, send, stop, open } = useChat(onChange);

  const isGallery = hash === GALLERY;
  const wanted = CONVERSATION.exec(hash)?.[1] ?? null;
  // A narrow page has room for either the list or the conversation.
  useEffect(() => {
    if (!WIDE.matches) setShowsList(false);
  }, [hash]);
  useEffect(() => {
    if (isGallery || wanted === state.id) return;
    setProblem(null);
    open(wanted).catch((error: Error) => setProblem(error.message));
    // Only a change of address opens a conversation: a turn sets state.id itself.
  }, [wanted, isGallery, server.online, server.locked]);

  const change = (image: Image) => {
    setViewed(null);
    setDraft({ text: `/imagine ${image.prompt}`, once: { ...settingsOf(image), seed: image.seed } });
    if (isGallery) go("#/");
  };
  const vary = (image: Image) => {
    setViewed(null);
    if (isGallery) go(`#/c/${image.conversation_id}`);
    void (isGallery ? open(image.conversation_id) : Promise.resolve()).then(() =>
      send(`/imagine ${image.prompt}`, { ...settingsOf(image), num_images: 4 }),
    );
  };

  const remove = async (image: Image) => {
    setViewed(null);
    try {
      await deleteImage(image.id);
      setDeletions((count) => count + 1);
      if (!isGallery) await open(state.id);
    } catch (error) {
      setProblem((error as Error).message);
    }
  };

  return (
    <Page
      masthead={<Header status={server.status} isGallery={isGallery} go={go} toggleSettings={() => setShowsSettings(!showsSettings)} showsList={showsList} toggleList={() => setShowsList(!showsList)} />}
      sidebar={
        <PageSidebar isSidebarOpen={showsList}>
          <PageSidebarBody isFilled>
            {showsList && (
              <Sidebar current={isGallery ? null : state.id} version={listVersion} go={go} onDeleted={(id) => id === state.id && go("#/")} />
            )}
          </PageSidebarBody>
        </PageSidebar>
      }
      isContentFilled
      mainComponent="main"
      className="chat-page"
    >
      <Drawer isExpanded={showsSettings} isInline onExpand={() => undefined}>
        <DrawerContent
          panelContent={
            <SettingsPanel
              value={settings}
              models={server.status?.drawing.models ?? []}
              llm={server.status?.llm ?? null}
              onChange={setSettings}
              onClose={() => setShowsSettings(false)}
            />
          }
        >
          <DrawerContentBody className="chat-body">
            {!server.online && (
              <Alert variant="warning" isInline title="The server cannot be reached. Trying again; nothing you typed is lost." />
            )}
            {problem && <Alert variant="danger" isInline title={problem} />}
            {server.locked && <TokenPrompt onToken={server.refresh} />}
            {isGallery ? (
              <Gallery onView={setViewed} version={deletions} />
            ) : (
              <ChatView
                state={state}
                status={server.status}
                online={server.online}
                settings={settings}
                draft={draft}
                onDraft={setDraft}
                onSend={send}
                onStop={stop}
                onView={setViewed}
              />
            )}
          </DrawerContentBody>
        </DrawerContent>
      </Drawer>
      {viewed && <ImageViewer image={viewed} onClose={() => setViewed(null)} onChange={change} onVary={vary} onDelete={(image) => void remove(image)} />}
    </Page>
  );
}

interface HeaderProps {
  status: Status | null;
  isGallery: boolean;
  go: (hash: string) => void;
  toggleSettings: () => void;
  showsList: boolean;
  toggleList: () => void;
}

function Header({ status, isGallery, go, toggleSettings, showsList, toggleList }: HeaderProps) {
  return (
    <Masthead>
      <MastheadMain>
        <MastheadToggle>
          <PageToggleButton isHamburgerButton aria-label="Conversations" id="conversations-toggle" isSidebarOpen={showsList} onSidebarToggle={toggleList} />
        </MastheadToggle>
        <MastheadBrand>
          <a href="#/" className="brand">
            <img src="/plate.svg" alt="" width="28" height="28" /> Aquatint
          </a>
        </MastheadBrand>
      </MastheadMain>
      <MastheadContent>
        <Toolbar isStatic>
          <ToolbarContent>
            <ToolbarGroup align={{ default: "alignEnd" }} gap={{ default: "gapSm" }}>
              <ToolbarItem className="only-wide">
                <Part name="Language model" ready={status?.llm.ready} detail={status?.llm.detail} />
              </ToolbarItem>
              <ToolbarItem className="only-wide">
                <Part name="Drawing" ready={status?.drawing.ready} detail={status?.drawing.detail} />
              </ToolbarItem>
              <ToolbarItem>
                <Button
                  variant="plain"
                  icon={<ImagesIcon />}
                  aria-label={isGallery ? "Back to the conversation" : "Gallery"}
                  onClick={() => (isGallery ? history.back() : go(GALLERY))}
                />
              </ToolbarItem>
              <ToolbarItem>
                <ThemeSwitch />
              </ToolbarItem>
              <ToolbarItem>
                <Button variant="plain" icon={<CogIcon />} aria-label="Settings" onClick={toggleSettings} />
              </ToolbarItem>
            </ToolbarGroup>
          </ToolbarContent>
        </Toolbar>
      </MastheadContent>
    </Masthead>
  );
}

function Part({ name, ready, detail }: { name: string; ready?: boolean; detail?: string }) {
  const words = ready === undefined ? "…" : ready ? "ready" : "not ready";
  return (
    <Label status={ready ? "success" : "warning"} title={detail} isCompact>
      {name}: {words}
    </Label>
  );
}
