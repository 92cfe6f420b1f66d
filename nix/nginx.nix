# An example: a registry behind nginx, which brings TLS with certificates of its own.
{
  imports = [ ./module.nix ];

  services.nixery = {
    enable = true;
    settings = {
      listen = [ "tcp:8080:interface=127.0.0.1" ];
      public_url = "https://registry.example.org";
      # nginx says for whom it asks, and is believed.
      trusted_proxies = [ "127.0.0.1" ];
      channel = "nixos-unstable";
    };
  };

  services.nginx = {
    enable = true;
    virtualHosts."registry.example.org" = {
      enableACME = true;
      forceSSL = true;
      locations."/" = {
        proxyPass = "http://127.0.0.1:8080";
        extraConfig = ''
          proxy_http_version 1.1;
          proxy_set_header Host $host;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          # Layers are large, and events never end.
          proxy_buffering off;
          proxy_request_buffering off;
          # As long as a build may take.
          proxy_read_timeout 4h;
        '';
      };
    };
  };

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  networking.firewall.allowedTCPPorts = [
    80
    443
  ];
}
