# Brings the files of one commit into the store.
#
#   nix-instantiate --eval --json --read-write-mode -A path fetch.nix ...
#   nix-instantiate --add-root LINK --indirect -A holder fetch.nix ...
#
# All arguments are strings:
#
#   kind     "git", "archive", "hashed" for an archive with a given hash, or "directory" for one
#            of this machine
#   url      of the repository, or of the archive; the directory's path
#   rev      the commit, for git; the SHA-256 of an archive
#   ref      for git, a ref whose history has the commit, as "refs/heads/main";
#            "" if none is known, and then all refs are fetched
#   depth    for git, "shallow" or "whole"
#   without  a file with the paths of files that are left out, one a line; "" if there are none
#
# `path` is the store path.  `holder` is a derivation that refers to it and is never
# built: one command fetches the path and roots what refers to it.
{ kind, url, rev ? "", ref ? "", depth ? "shallow", without ? "" }:

let
  # Plain names of tags ("v2") are looked up as branches, whatever the version.
  place = if ref == "" then { allRefs = true; } else { inherit ref; };

  whole =
    if kind == "git" then
      # Without `shallow` Nix counts all commits, and refuses repositories without them;
      # with it, Nix 2.26 asks for less than a server of static files can give.
      (builtins.fetchGit (
        { inherit url rev; name = "source"; shallow = depth == "shallow"; } // place
      )).outPath
    else if kind == "directory" then
      builtins.path { path = /. + url; name = "source"; }
    else
      builtins.fetchTarball (
        { inherit url; name = "source"; } // (if kind == "hashed" then { sha256 = rev; } else { })
      );

  leftOut = builtins.listToAttrs (map
    (name: { inherit name; value = null; })
    (builtins.filter builtins.isString (builtins.split "\n" (builtins.readFile (/. + without)))));

  path =
    if without == "" then whole
    else
      let skipped = builtins.stringLength whole + 1;
      in builtins.path {
        path = whole;
        name = "source";
        filter = file: _: ! leftOut ? ${builtins.substring skipped (-1) file};
      };
in
{
  inherit path;
  holder = derivation { name = "holder"; system = "none"; builder = "none"; inherit path; };
}
