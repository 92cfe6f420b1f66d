# Tells strings that are UTF-8 from strings that are not.
#
# Strings of the Nix language are bytes, and package sets have them in descriptions, in
# versions and in names of attributes. Output in JSON has to be UTF-8: older versions of
# Nix print other bytes unchanged, newer ones end with an error that `tryEval` does not
# catch.
let
  inherit (builtins)
    concatStringsSep foldl' fromJSON genList isAttrs length split stringLength substring;

  bytes = string: genList (at: substring at 1 string) (stringLength string);

  # The language has no escape for a byte: these are taken out of characters.
  byte = at: character: substring at 1 (fromJSON "\"${character}\"");

  x80 = byte 1 "\\u0080";
  x8F = byte 1 "\\u008f";
  x90 = byte 1 "\\u0090";
  x9F = byte 1 "\\u009f";
  xA0 = byte 1 "\\u00a0";
  xBF = byte 1 "\\u00bf";
  xC2 = byte 0 "\\u0080";
  xE0 = byte 0 "\\u0800";
  xED = byte 0 "\\ud7ff";
  xF0 = byte 0 "\\ud800\\udc00";
  xF4 = byte 0 "\\udbff\\udfff";

  # The state between two bytes: `left` more bytes of the character, the next one from
  # `low` to `high`. It is null after a byte that cannot stand there. The Unicode
  # Standard, version 15, table 3-7.
  expect = left: low: high: { inherit left low high; };
  next = state: one:
    if state == null then null
    else if state.left > 0 then
      if state.low <= one && one <= state.high then expect (state.left - 1) x80 xBF else null
    else if one < x80 then state
    else if one < xC2 then null
    else if one < xE0 then expect 1 x80 xBF
    else if one == xE0 then expect 2 xA0 xBF
    else if one == xED then expect 2 x80 x9F
    else if one < xF0 then expect 2 x80 xBF
    else if one == xF0 then expect 3 x90 xBF
    else if one < xF4 then expect 3 x80 xBF
    else if one == xF4 then expect 3 x80 x8F
    else null;
  end = string: foldl' next (expect 0 x80 xBF) (bytes string);

  # Most strings are ASCII, and a regular expression of one character is fast. (One for
  # the whole string would need a stack as deep as the string is long.)
  isASCII = string: length (split "[^\t-~]" string) == 1;
in
rec {
  isText = string: isASCII string || (let state = end string; in isAttrs state && state.left == 0);

  # The string, with replacement characters for all bytes above ASCII if it is no UTF-8.
  toText = string:
    if isText string then string
    else concatStringsSep "" (map (one: if one < x80 then one else fromJSON "\"\\ufffd\"") (bytes string));

  # Those of the strings that are UTF-8. All are checked at once first: names of
  # attributes are tens of thousands.
  onlyTexts = strings:
    if isASCII (concatStringsSep "\n" strings) then strings else builtins.filter isText strings;
}
