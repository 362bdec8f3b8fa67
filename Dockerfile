# Aegis from its wheel, for a user without rights: docker build --tag aegis .
# docs/deploy.md has a compose file for it.

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
WORKDIR /build
COPY requirements-run.lock ./
RUN python -m venv --without-pip /opt/aegis \
 && python -m pip --python /opt/aegis/bin/python install --require-hashes -r requirements-run.lock
COPY . .
# hatchling and what it requires are cut out of the other lock, and stay in this stage
RUN BUILD='hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers' \
 && awk "/^[a-z]/ {cut = /^($BUILD)==/} cut" requirements.lock > build.lock \
 && python -m venv tools \
 && tools/bin/pip install --require-hashes -r build.lock \
 && tools/bin/python -m hatchling build -t wheel \
 && python -m pip --python /opt/aegis/bin/python install --no-deps --no-index dist/*.whl

FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --user-group --home-dir /aegis --shell /usr/sbin/nologin aegis \
 && install -d -m 0700 -o aegis -g aegis /aegis
COPY --from=build /opt/aegis /opt/aegis
# home of Aegis and of the user: data, reports, and compiled code, which a new container takes over
ENV PATH=/opt/aegis/bin:$PATH AEGIS_HOME=/aegis HOME=/aegis
USER 10001:10001
WORKDIR /aegis
VOLUME /aegis
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s CMD ["python", "-c", "\
from http.client import HTTPConnection; \
asked = HTTPConnection('127.0.0.1', 8000, timeout=4); \
asked.request('GET', '/v1/health'); \
raise SystemExit(asked.getresponse().status != 200)"]
ENTRYPOINT ["/bin/sh", "-c", "umask 0077; exec \"$@\"", "sh"]
CMD ["aegis", "serve", "--host", "0.0.0.0"]
