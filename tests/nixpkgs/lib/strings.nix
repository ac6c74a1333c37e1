# Text, in nixpkgs' words.
lib:
let
  inherit (builtins)
    concatStringsSep
    filter
    genList
    head
    isString
    length
    match
    replaceStrings
    split
    stringLength
    substring
    tail
    toJSON
    ;
  inherit (lib)
    concatMap
    imap1
    mapAttrsToList
    ;

  lower = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upper = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  stringToCharacters = text: genList (n: substring n 1 text) (stringLength text);
in
rec {
  inherit stringToCharacters;
  inherit (builtins) concatStringsSep replaceStrings toJSON;

  optionalString = condition: text: if condition then text else "";
  concatStrings = concatStringsSep "";
  concatMapStrings = f: list: concatStrings (map f list);
  concatMapStringsSep =
    separator: f: list:
    concatStringsSep separator (map f list);
  concatImapStrings = f: list: concatStrings (imap1 f list);
  concatMapAttrsStringSep =
    separator: f: set:
    concatStringsSep separator (mapAttrsToList f set);
  concatLines = concatMapStrings (line: line + "\n");
  intersperse =
    separator: list:
    if list == [ ] then
      [ ]
    else
      [ (head list) ]
      ++ concatMap (value: [
        separator
        value
      ]) (tail list);

  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      start = stringLength text - stringLength suffix;
    in
    start >= 0 && substring start (-1) text == suffix;
  hasInfix = infix: text: length (split (escapeRegex infix) text) > 1;
  removePrefix = prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  removeSuffix =
    suffix: text: if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
  splitString = separator: text: filter isString (split (escapeRegex separator) text);
  trim =
    text:
    let
      inner = match "[ \t\r\n]*(.*[^ \t\r\n])[ \t\r\n]*" text;
    in
    if inner == null then "" else head inner;

  toLower = replaceStrings upper lower;
  toUpper = replaceStrings lower upper;
  fixedWidthString =
    width: filler: text:
    if stringLength text >= width then text else fixedWidthString width filler (filler + text);
  fixedWidthNumber = width: number: fixedWidthString width "0" (toString number);

  escape = chars: replaceStrings chars (map (char: "\\${char}") chars);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escapeNixIdentifier = name: if match "[a-zA-Z_][a-zA-Z0-9_'-]*" name != null then name else toJSON name;
  escapeShellArg =
    value:
    let
      text = toString value;
    in
    if match "[[:alnum:],._+:@%/-]+" text == null then "'${replaceStrings [ "'" ] [ "'\\''" ] text}'" else text;
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;

  toInt =
    text:
    let
      digits = match "[ \t\n\r]*(-?[1-9][0-9]*|-?0)[ \t\n\r]*" text;
    in
    if digits == null then throw "toInt: '${text}' is not a decimal number" else builtins.fromJSON (head digits);

  makeSearchPathOutput =
    output: folder: packages:
    concatMapStringsSep ":" (package: "${lib.getOutput output package}/${folder}") (filter (package: package != null) packages);
  makeSearchPath = folder: packages: concatMapStringsSep ":" (package: "${package}/${folder}") (filter (package: package != null) packages);
  makeBinPath = makeSearchPathOutput "bin" "bin";
}
