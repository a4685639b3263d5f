# The daemon alone: one program, the libraries that it loads, and the public certificate
# authorities. No shell and no package manager; only TMPDIR has to be writable.
#
#   docker build -t bucket-av-scanner .
#   docker run --read-only --tmpfs /tmp -e MINIO_SERVER_URL=… bucket-av-scanner
#
# Builds with BuildKit and with the classic builder. The libraries are copied from the builder's own
# base, so there is only one base to pin, and the program runs with the libraries it was built with.
ARG BUILDER=rust:1.95.0-slim-bookworm
# `dist` is optimised across all crates, which takes minutes; set `dev` to rebuild often.
ARG PROFILE=dist

FROM ${BUILDER} AS build
ARG PROFILE
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build

# The dependencies first, with an empty program: this layer stays cached until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
COPY testing/bench/Cargo.toml testing/bench/
COPY testing/chaos/Cargo.toml testing/chaos/
COPY testing/peers/Cargo.toml testing/peers/
COPY testing/stack/Cargo.toml testing/stack/
RUN mkdir -p src packaging testing/integration testing/{bench,chaos,peers,stack}/src \
    && echo 'fn main() {}' | tee src/main.rs packaging/manual.rs testing/integration/main.rs \
    && touch src/lib.rs testing/{bench,chaos,peers,stack}/src/lib.rs \
    && cargo build --locked --profile "$PROFILE"

# Cargo compares file times, and a copied file may be older than the empty program above.
COPY src src
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile "$PROFILE"

# The files of the final image, at their paths. `ldd` also lists the loader, on every architecture.
# status.d says to vulnerability scanners from which packages they are.
# The final image names its user by number, so that Kubernetes can verify that it is not root.
RUN mkdir -p image/etc/ssl/certs image/usr/local/bin image/tmp image/var/log/av-scan image/var/lib/dpkg/status.d \
    && cp "target/${PROFILE/#dev/debug}/bucket-av-scanner" image/usr/local/bin/ \
    && ldd image/usr/local/bin/bucket-av-scanner | grep -o '/[^ ]*' \
        | while read -r library; do cp -L --parents "$library" image; done \
    && cp -L /etc/ssl/certs/ca-certificates.crt image/etc/ssl/certs/ \
    && for package in ca-certificates libc6 libgcc-s1; do \
        dpkg-query --status "$package" > "image/var/lib/dpkg/status.d/$package"; done \
    && echo 'hosts: files dns' > image/etc/nsswitch.conf \
    && echo 'avscan:x:65532:65532::/:/nonexistent' > image/etc/passwd \
    && echo 'avscan:x:65532:' > image/etc/group \
    && chmod 1777 image/tmp \
    && chown 65532:65532 image/var/log/av-scan \
    && image/usr/local/bin/bucket-av-scanner --version

FROM scratch
# The list of components has those of Cargo.lock too, which cannot be seen in a program.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
COPY --from=build /build/image /
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/bucket-av-scanner", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/bucket-av-scanner"]
