import { Button } from "@patternfly/react-core";
import { AdjustIcon, MoonIcon, SunIcon } from "@patternfly/react-icons";
import { useState } from "react";
import { applyTheme, storedTheme, type Theme } from "./theme";

const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const ICONS: Record<Theme, React.ReactNode> = { system: <AdjustIcon />, light: <SunIcon />, dark: <MoonIcon /> };

export function ThemeSwitch() {
  const [theme, setTheme] = useState(storedTheme);
  const turn = () => {
    applyTheme(NEXT[theme]);
    setTheme(NEXT[theme]);
  };
  return <Button variant="plain" icon={ICONS[theme]} aria-label={`Theme: ${theme}. Switch to ${NEXT[theme]}`} onClick={turn} />;
}
