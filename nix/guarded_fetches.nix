# Imports files that may fetch over the network what is pinned, and nothing else.
#
# The value is a function in place of `import`. All that a file sees of the language is in the
# scope that `scopedImport` gives it: there, `import` and `scopedImport` give the same scope to
# the files that they read, and the functions that fetch abort unless their result is fixed by
# a hash or by a full commit. So it is in files at any depth, in those that were fetched too.
#
# Fetches must be allowed by `allowed-uris` for this evaluation, but for those of URLs of files
# (`file://`): Nix reads these as paths, where it may read them.
let
  inherit (builtins)
    all attrNames attrValues elem elemAt filter foldl' genList getContext head intersectAttrs isAttrs
    isString listToAttrs mapAttrs match readDir split stringLength substring tail
    typeOf unsafeDiscardStringContext;

  # -- refusals -----------------------------------------------------------------

  # A URL may hold a password.
  shown = url:
    let
      text = if isString url then unsafeDiscardStringContext url else "a ${typeOf url}";
      parts = match "([a-z0-9+.-]+://)[^/@]*@(.*)" text;
    in
    if parts == null then text else head parts + head (tail parts);

  # Nothing catches an abort.
  refuse = call: url: what:
    abort "nixery: ${call} of ${shown url} is not pinned: give it ${what}, or set allow_unpinned_fetches";

  # -- pins ---------------------------------------------------------------------

  matches = pattern: text: isString text && match pattern (unsafeDiscardStringContext text) != null;
  isHash = matches
    "sha256-[A-Za-z0-9+/]{43}=|(sha256:)?([0-9a-f]{64}|[0-9abcdfghijklmnpqrsvwxyz]{52}|[A-Za-z0-9+/]{43}=)";
  isCommit = matches "[0-9a-f]{40}|[0-9a-f]{64}";

  # Nix keeps what it fetches until the next collection: the daemon reads this line, and makes a
  # root.
  fetched = result:
    let path = unsafeDiscardStringContext "${result.outPath or result}";
    in builtins.trace "nixery-fetched ${path}" result;

  # Nix reads these as paths, and only those that the evaluation may read anyway. Two slashes
  # begin a host for the library that downloads.
  isLocal = url: typeOf url == "path" || matches "(file://)?/([^/].*)?" url;

  hashed = call: arguments:
    let
      given = if isAttrs arguments then arguments else { url = arguments; };
      url = given.url or "";
    in
    if isLocal url then builtins.${call} arguments
    else if isHash (given.sha256 or null) then fetched (builtins.${call} arguments)
    else refuse call url "a sha256";

  # `fetchGit` and `fetchMercurial`.
  committed = call: arguments:
    let
      given = if isAttrs arguments then arguments else { url = arguments; };
      url = given.url or "";
      # `HOST:PATH` is no URL, and options allow URLs.
      parts = if isString url then match "([^/:@]+@)?([^/:]+):([^/].*|/[^/].*)" url else null;
      part = at: let found = elemAt parts at; in if found == null then "" else found;
      absolute = if substring 0 1 (part 2) == "/" then part 2 else "/${part 2}";
      spelled =
        if call == "fetchGit" && parts != null then { url = "ssh://${part 0}${part 1}${absolute}"; } else { };
    in
    if isLocal url then builtins.${call} arguments
    else if isCommit (given.rev or null) then fetched (builtins.${call} (given // spelled))
    else refuse call url "rev, a full commit";

  revised = [ "git" "github" "gitlab" "hg" "sourcehut" ];

  fetchTree = given:
    let
      call = "fetchTree";
      type = given.type or "";
      url = given.url or "${type}:${given.owner or ""}/${given.repo or given.id or ""}";
      forge = match "(github|gitlab|sourcehut):([^/?#]+)/([^/?#]+)/([0-9a-f]{40})" given;
      at = elemAt forge;
      hasHash = isHash (given.narHash or null);
    in
    if isString given then
      if forge != null then fetchTree { type = at 0; owner = at 1; repo = at 2; rev = at 3; }
      else if matches "git[+](https?|ssh|git)://[^?#]*[?]([^#]*&)?rev=[0-9a-f]{40}(&[^#]*)?" given
      then fetched (builtins.fetchTree given)
      else refuse call given "a set with a narHash, or with a full commit as rev"
    # Nix 2.8 reads any path of the machine here.
    else if type == "path" then
      { outPath = builtins.path ({ name = "source"; path = /. + given.path; } // sha256Of given); }
      // intersectAttrs { lastModified = null; narHash = null; rev = null; } given
    # A registry says what these are.
    else if type == "indirect" then refuse call url "another type"
    else if hasHash || elem type revised && isCommit (given.rev or null) then
      fetched (builtins.fetchTree given)
    else refuse call url "a narHash, or a full commit as rev";

  sha256Of = given: if given ? narHash then { sha256 = given.narHash; } else { };

  findFile = entries: name:
    let
      isUrl = entry: matches "[a-z][a-z0-9+.-]*:.*" (entry.path or null);
      urls = filter isUrl entries;
    in
    if urls == [ ] then builtins.findFile entries name
    else refuse "findFile" (head urls).path "a path, as of fetchTarball";

  # What Nix itself reads has another scope.
  refused = call: _:
    abort "nixery: ${call} is not available to package sets; fetchTree is, with a full commit";

  # -- files --------------------------------------------------------------------

  # `scopedImport` does not remember what it has read, and files of a large set are imported many
  # times. Each directory has its files as attributes, and Nix evaluates an attribute once.
  directory = path: rec {
    value = load path;
    children = mapAttrs
      (name: type:
        if type == "directory" then directory "${path}/${name}"
        else if type == "regular" then { value = load "${path}/${name}"; }
        else { })
      (readDir path);
  };

  load = path: builtins.scopedImport scope (/. + path);

  # Names in the store are found letter by letter, for it is not known beforehand which there are.
  letters = text: genList (at: substring at 1 text) (stringLength text);
  alphabet = letters "0123456789abcdfghijklmnpqrsvwxyzeotuABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=";
  spelling = prefix: {
    found = directory prefix;
    next = listToAttrs (map (letter: { name = letter; value = spelling (prefix + letter); }) alphabet);
  };
  store = spelling "${builtins.storeDir}/";
  inStore = name: (foldl' (place: letter: place.next.${letter} or { }) store (letters name)).found or { };

  searched = map (entry: { inherit (entry) path; found = directory entry.path; }) builtins.nixPath;

  # What is known of an absolute path, `{ }` if nothing is: then it is read again.
  find = path:
    let
      begins = entry: path == entry.path
        || substring 0 (stringLength entry.path + 1) path == "${entry.path}/";
      known = filter begins searched;
      inside = "${builtins.storeDir}/";
      rest = from: filter isString (split "/" (substring from (stringLength path) path));
      step = node: name: (node.children or { }).${name} or { };
      stored = rest (stringLength inside);
    in
    if known != [ ] then
      let base = head known; in
      if path == base.path then base.found else foldl' step base.found (rest (stringLength base.path + 1))
    else if substring 0 (stringLength inside) path == inside then
      foldl' step (inStore (head stored)) (tail stored)
    else { };

  # The path of a file that needs nothing built, or null.
  pathOf = target:
    if typeOf target == "path" then toString target
    else if isString target then
      if all (context: context == { path = true; }) (attrValues (getContext target))
      then unsafeDiscardStringContext target else null
    else if isAttrs target && target ? outPath && !(target ? __toString) then pathOf target.outPath
    else null;

  import = target:
    let
      path = pathOf target;
      found = if path == null then { } else find path;
    in
    found.value or (builtins.scopedImport scope target);

  # -- the scope ----------------------------------------------------------------

  replaced = {
    inherit fetchTree findFile import;
    scopedImport = own: builtins.scopedImport (scope // own);
    fetchGit = committed "fetchGit";
    fetchMercurial = committed "fetchMercurial";
    fetchTarball = hashed "fetchTarball";
    fetchurl = hashed "fetchurl";
    getFlake = refused "getFlake";
    builtins = offered;
  };

  # Functions of newer versions that fetch, too.
  unknown = filter
    (name: match "fetch.*" name != null && name != "fetchClosure" && !(replaced ? ${name}))
    (attrNames builtins);
  here = intersectAttrs builtins replaced
    // listToAttrs (map (name: { inherit name; value = refused name; }) unknown);

  offered = builtins // here;

  # Each is a global name with or without underscores; `<name>` calls `__findFile`.
  scope = here // listToAttrs
    (map (name: { name = "__${name}"; value = here.${name}; }) (attrNames here));
in
import
