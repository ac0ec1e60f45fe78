# The coordinator: one static binary and nothing else. The build context holds
# the binary and an empty directory "data" (see docs/operations.md):
#
#   mkdir -p dist/data
#   CGO_ENABLED=0 go build -o dist/handfast ./cmd/handfast
#   docker build -t handfast -f Dockerfile dist
FROM scratch
COPY handfast /handfast
# A new volume takes over the owner of the directory it is mounted on.
COPY --chown=65532:65532 data /data
USER 65532:65532
ENV HANDFAST_STORE_DIR=/data
VOLUME /data
EXPOSE 4263
ENTRYPOINT ["/handfast"]
CMD ["server"]
