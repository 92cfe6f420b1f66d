# The options of NixOS that the module and its example set, with NixOS' own types.
{ lib, pkgs, ... }:

let
  inherit (lib) mkOption types;

  option =
    type: default:
    mkOption {
      inherit type default;
      description = "";
    };

  strings = option (types.listOf types.str) [ ];

  # What a directive of a unit may be: one value, or a list of them.
  directive = types.either (types.either types.bool (types.either types.int types.str)) (
    types.either types.path (types.listOf types.str)
  );

  unit = {
    description = option types.str "";
    wantedBy = strings;
    requires = strings;
    wants = strings;
    after = strings;
  };

  set = type: option (types.attrsOf type) { };
in
{
  options = {
    assertions = option (types.listOf types.anything) [ ];
    warnings = strings;
    environment.systemPackages = option (types.listOf types.package) [ ];
    nix.package = option types.package pkgs.nix;
    nix.settings.extra-allowed-users = strings;
    networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
    users.users = set (
      types.submodule {
        options = {
          isSystemUser = option types.bool false;
          group = option types.str "";
          description = option types.str "";
        };
      }
    );
    users.groups = set (types.submodule { options = { }; });
    systemd.services = set (
      types.submodule {
        options = unit // {
          path = option (types.listOf types.package) [ ];
          environment = set types.str;
          serviceConfig = set directive;
          unitConfig = set directive;
        };
      }
    );
    systemd.sockets = set (
      types.submodule {
        options = unit // {
          listenStreams = strings;
          socketConfig = set directive;
        };
      }
    );
    security.acme = {
      acceptTerms = option types.bool false;
      defaults.email = option (types.nullOr types.str) null;
    };
    services.nginx = {
      enable = option types.bool false;
      virtualHosts = set (
        types.submodule {
          options = {
            enableACME = option types.bool false;
            forceSSL = option types.bool false;
            locations = set (
              types.submodule {
                options = {
                  proxyPass = option (types.nullOr types.str) null;
                  extraConfig = option types.lines "";
                };
              }
            );
          };
        }
      );
    };
  };
}
