# The image of a node: the binary on a base with the C library, root certificates and nothing else, as an unprivileged user.
# It holds no configuration: mount one at /etc/drawbridge/drawbridge.toml. docs/install.md has the commands.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# For `drawbridge --version`; the build has no repository.
ARG DRAWBRIDGE_COMMIT
ARG DRAWBRIDGE_COMMIT_DATE
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --profile dist --locked --bin drawbridge && cp target/dist/drawbridge /usr/local/bin/drawbridge

FROM gcr.io/distroless/cc-debian12:nonroot
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/drawbridge/
COPY --from=build /usr/local/bin/drawbridge /usr/local/bin/drawbridge
# As numbers, so that Kubernetes can verify that it is not root.
USER 65532:65532
# Players; the admin API, if the configuration has it.
EXPOSE 8000 8001
# No HEALTHCHECK: there is no shell or HTTP client in the image, and Docker does nothing about an unhealthy container. What
# routes players to the node checks /readyz.
ENTRYPOINT ["/usr/local/bin/drawbridge"]
CMD ["serve", "--config", "/etc/drawbridge/drawbridge.toml"]
